"""Several processes that train as one: rank 0 leads, the others serve the trainings that it starts.

They are started by `torchrun`. Alone, without it, every function here does nothing or answers for the one process
that there is.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # imported later, its defaults would keep the group alive, threads and all
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from export.runtime.errors import FactoryError, UsageError

T = TypeVar("T")
CPU: Final = torch.device("cpu")
PATIENCE: Final = timedelta(days=365)  # the others wait while the leader searches, measures and exports
LEFT: Final = "the leader has left"


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
    everyone = [torch.empty_like(vector) for _ in range(size())]
    dist.all_gather(everyone, vector)
    return everyone


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


def _serve(store: dist.Store) -> None:  # type: ignore[name-defined]
    """Do what the leader invites to, until it has finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader decides what Ctrl-C means
    try:
        while (job := _broadcast(None)) is not None:
            with suppress(FactoryError):  # the leader meets the same, and tells it
                job()
    except RuntimeError:  # what a lost connection raises
        if not store.check([LEFT]):
            raise


def _backend() -> str:
    """For what goes from host to host and from GPU to GPU; each process of a machine takes a GPU of its own."""
    gpus, process = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
    if not gpus:
        return "gloo"
    if process >= gpus:
        raise UsageError(
            "each process needs a GPU of its own",
            expected=f"at most {gpus} processes on this machine",
            found=os.environ["LOCAL_WORLD_SIZE"],
            fix=f"give torchrun --nproc-per-node {gpus}",
        )
    torch.cuda.set_device(process)
    return "cpu:gloo,cuda:nccl"


@contextmanager
def joined() -> Iterator[bool]:
    """Join the processes that torchrun started; yields whether this one leads.

    The others are yielded to only when the leader is done: they have served it by then, and have nothing left to do.
    They end well however the leader ends, so that what torchrun reports is the leader's exit code.

    Raises:
        UsageError: if there are more processes on a machine than GPUs, where it has any.
    """
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield True
        return
    backend = _backend()
    store, rank, size = next(rendezvous("env://"))
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    if not leads():
        _serve(store)
        dist.destroy_process_group()
        yield False
        return
    try:
        yield True
    except (FactoryError, SystemExit):
        _dismiss()
        raise
    except BaseException:
        store.set(LEFT, "")  # the others may be amid a step, which breaks off when this process has left
        if backend == "gloo":  # NCCL may wait here for what the others do not send
            dist.destroy_process_group()
        raise
    _dismiss()


def _dismiss() -> None:
    """Let the others go, who wait to be invited."""
    _broadcast(None)
    dist.destroy_process_group()
