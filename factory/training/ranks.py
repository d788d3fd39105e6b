"""Several processes that train as one: rank 0 leads, the others serve the trainings that it starts.

They are started by `torchrun`. Alone, without it, every function here does nothing or answers for the one process
that there is.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from export.runtime.errors import FactoryError, UsageError

T = TypeVar("T")
CPU: Final = torch.device("cpu")


def size() -> int:
    """How many processes train as one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def leads() -> bool:
    """Whether this process is the one that writes, evaluates and reports."""
    return not dist.is_initialized() or dist.get_rank() == 0


def own(parts: int) -> range:
    """The micro-batches, of `parts` in a step, that this process computes.

    Raises:
        UsageError: unless every process gets as many.
    """
    if parts % size():
        raise UsageError(
            "a batch cannot be shared out evenly",
            expected=f"training.parts a multiple of {size()}, the number of processes",
            found=str(parts),
            fix="set training.parts in the line's profile (it is a part of the result), or start fewer processes",
        )
    each, rank = parts // size(), dist.get_rank() if dist.is_initialized() else 0
    return range(rank * each, (rank + 1) * each)


def gathered(vector: Tensor) -> list[Tensor]:
    """The vectors of all processes, in the order of their ranks."""
    if size() == 1:
        return [vector]
    everyone = vector.new_empty(size() * len(vector))
    dist.all_gather_into_tensor(everyone, vector)
    return list(everyone.view(size(), -1))


def anywhere(happened: bool) -> bool:
    """Whether it happened in any process. Goes from host to host, so it waits for no device."""
    if size() == 1:
        return happened
    flag = torch.tensor([float(happened)])
    dist.all_reduce(flag)
    return bool(flag)


def told(work: Callable[[], T]) -> T:
    """What `work` gives the leader, in all processes; only the leader does it, and it must not raise."""
    value: T = _broadcast(work() if leads() else None)
    return value


def _broadcast(value: Any) -> Any:
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=CPU)
    return box[0]


def invite(job: Callable[[], object]) -> None:
    """Have the others do `job` too, in step with the leader; it travels pickled, and its errors are the leader's."""
    if size() > 1 and leads():
        _broadcast(job)


def _serve() -> None:
    """Do what the leader invites to, until it has finished."""
    while (job := _broadcast(None)) is not None:
        with suppress(FactoryError):  # the leader meets the same, and tells it
            job()


@contextmanager
def joined() -> Iterator[bool]:
    """Join the processes that torchrun started; yields whether this one leads.

    The others are yielded to only when the leader is done: they have served it by then, and have nothing left to do.
    Where the leader fails otherwise than by a `FactoryError`, torchrun ends the others.
    """
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield True
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
    try:
        if not leads():
            _serve()
            yield False
            return
        try:
            yield True
        except FactoryError:
            _broadcast(None)
            raise
        _broadcast(None)
    finally:
        dist.destroy_process_group()
