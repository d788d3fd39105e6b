"""Processes of this machine, each on one thread and, where there are several GPUs, each on one of them."""

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from typing import Any, Final, TypeVar

import torch

from export.runtime.errors import EnvironmentLacks

T = TypeVar("T")
R = TypeVar("R")

RESTARTS: Final = 3  # without a single new result in between
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"

_packed = b""


def visible_gpu(worker: int, gpus: int, visible: str | None) -> str | None:
    """What CUDA_VISIBLE_DEVICES is to be for a worker; None leaves it alone, since there is nothing to share out.

    Args:
        worker: its number, from 0.
        gpus: how many GPUs this process sees.
        visible: the variable in this process, which may name GPUs by number or by UUID.
    """
    if gpus < 2:
        return None
    names = visible.split(",") if visible else [str(gpu) for gpu in range(gpus)]
    return names[worker % gpus].strip()


def _end_with(parent: Connection) -> None:
    parent.poll(None)  # nothing is ever sent: this returns when the other end is closed or its process is gone
    os._exit(1)


def _start(packed: bytes, parent: Connection, started: "Synchronized[int]", gpus: int) -> None:
    global _packed  # noqa: PLW0603 - the task travels once to a worker, not with every item
    _packed = packed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with started.get_lock():
        worker, started.value = started.value, started.value + 1
    gpu = visible_gpu(worker, gpus, os.environ.get(VISIBLE))
    if gpu is not None:
        os.environ[VISIBLE] = gpu  # torch reads it when it first uses CUDA, which no import does
    torch.set_num_threads(1)


@cache
def _task() -> Callable[[Any], Any]:
    task: Callable[[Any], Any] = pickle.loads(_packed)  # noqa: S301 - from the parent
    return task


def _call(item: Any) -> bytes:
    # as bytes, because a tensor would be shared by file descriptors, which die with the worker
    return pickle.dumps(_task()(item))


def _lasts(future: "Future[bytes] | None") -> bool:
    """Whether the outcome is known and is the task's own."""
    return future is not None and future.done() and not isinstance(future.exception(), BrokenProcessPool)


class Processes:
    """A pool that outlives its workers: when one is killed, a new pool computes what is missing."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._task: Callable[[Any], Any] | None = None
        self._packed = b""
        self._pool: tuple[ProcessPoolExecutor, Connection] | None = None

    def map(self, task: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """As `Engine.map`."""
        if task is not self._task:
            self.stop()
            self._task, self._packed = task, pickle.dumps(task)
        futures: list[Future[bytes] | None] = [None] * len(items)
        position = known = breaks = 0
        try:
            while position < len(items):
                try:
                    packed = self._outcome(futures, items, position)
                except BrokenProcessPool as broken:
                    self.stop()
                    futures = [future if _lasts(future) else None for future in futures]
                    before, known = known, sum(map(_lasts, futures))
                    breaks = 1 if known > before else breaks + 1
                    if breaks > RESTARTS:
                        raise self._given_up() from broken
                    continue
                result: R = pickle.loads(packed)  # noqa: S301 - from a worker of our own
                yield result
                position += 1
        finally:
            # not cancelled one by one: in Python 3.11 a pool with cancelled work hangs when it breaks
            if any(future is not None and not future.done() for future in futures):
                self.stop()

    def stop(self) -> None:
        """End the workers at once, whatever they do; the next map starts new ones."""
        if self._pool is not None:
            executor, held = self._pool
            self._pool = None
            held.close()
            executor.shutdown()

    def _outcome(self, futures: "list[Future[bytes] | None]", items: Sequence[Any], position: int) -> bytes:
        if self._pool is None:
            self._pool = self._open()
        executor, _ = self._pool
        if futures[position] is None:
            for index in range(position, len(items)):
                futures[index] = futures[index] or executor.submit(_call, items[index])
        future = futures[position]
        assert future is not None
        return future.result()

    def _open(self) -> tuple[ProcessPoolExecutor, Connection]:
        context = get_context("spawn")
        end, held = context.Pipe(duplex=False)
        started = context.Value("i", 0)
        settings = (self._packed, end, started, torch.cuda.device_count())
        return ProcessPoolExecutor(self._workers, context, initializer=_start, initargs=settings), held

    def _given_up(self) -> EnvironmentLacks:
        return EnvironmentLacks(
            "worker processes are killed again and again",
            expected="workers that live until their work is done",
            found=f"{RESTARTS + 1} deaths in a row without a result, as when memory runs out",
            fix="free some memory, or ask for fewer workers",
        )
