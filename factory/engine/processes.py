"""Processes of this machine, each on one thread and, where there are several GPUs, each on one of them.

Not a `ProcessPoolExecutor`: its workers share one pipe, which hangs for ever when one is killed while it writes, and
the death of one ends them all. Here each has a pipe of its own, and only what the dead one was at is done again.
"""

import os
import pickle
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, Final, TypeVar

import torch

from export.runtime.errors import EnvironmentLacks

T = TypeVar("T")
R = TypeVar("R")

RESTARTS: Final = 3  # of the worker that one item kills
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


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


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _work(pipe: Connection, gpu: str | None) -> None:
    """Answer items until the parent closes the pipe. The task comes with the first item that it is for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if gpu is not None:
        os.environ[VISIBLE] = gpu  # torch reads it when it first uses CUDA, not before a task does
    task: Any = None
    with suppress(EOFError):
        while True:
            message = pipe.recv_bytes()
            torch.set_num_threads(1)  # every time, as a task may have changed it
            # plain pickle, since that of multiprocessing shares tensors by file descriptors, which die with the worker
            try:
                packed, item = pickle.loads(message)  # noqa: S301 - from the parent
                task = task if packed is None else pickle.loads(packed)  # noqa: S301 - from the parent
                answer = pickle.dumps((True, task(item)))
            except Exception as error:
                error.add_note(f"in a worker process:\n{traceback.format_exc()}")
                answer = pickle.dumps((False, error))
            pipe.send_bytes(answer)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back, from the process that is started here too: until it ignores it, it would print a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """One process, and the number of the item it is at."""

    def __init__(self, gpu: str | None) -> None:
        context = get_context("spawn")
        self.pipe, inner = context.Pipe()
        self.process = context.Process(target=_work, args=(inner, gpu), daemon=True)
        with _uninterrupted():
            self.process.start()
        inner.close()  # or the pipe would not end when the process does
        self.at: int | None = None
        self._task: object = None

    def give(self, number: int, item: object, task: object, packed: bytes) -> None:
        message = pickle.dumps((None if task is self._task else packed, item))
        self.at, self._task = number, task
        with suppress(OSError):  # a worker that died is noticed by the end of its pipe
            self.pipe.send_bytes(message)

    def take(self) -> tuple[bool, Any] | None:
        """What became of the item, as (True, result) or (False, error); None if the worker died."""
        try:
            answer = self.pipe.recv_bytes()
        except (EOFError, OSError):
            return None
        done, value = pickle.loads(answer)  # noqa: S301 - from a worker of our own
        self.at = None
        if not done:
            self._task = None  # which it may have failed to unpickle
        return done, value

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Processes:
    """A pool that outlives its workers: when one is killed, a new one does its item."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._gpus = torch.cuda.device_count()
        self._workers: dict[int, _Worker] = {}

    def map(self, task: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """As `Engine.map`."""
        self._end_busy()  # of a map that was left before its end
        packed = pickle.dumps(task)
        waiting = deque(range(len(items)))
        outcomes: dict[int, tuple[bool, Any]] = {}
        deaths: Counter[int] = Counter()
        try:
            for number in range(len(items)):
                while number not in outcomes:
                    for worker in self._idle(len(waiting)):
                        at = waiting.popleft()
                        worker.give(at, items[at], task, packed)
                    self._collect(waiting, outcomes, deaths)
                done, value = outcomes.pop(number)
                if not done:
                    raise value
                yield value
        finally:
            self._end_busy()

    def stop(self) -> None:
        """End the workers at once, whatever they do; another map would start new ones."""
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()

    def _idle(self, wanted: int) -> list[_Worker]:
        """Up to `wanted` workers without work; those that there are not yet, or not any more, are started."""
        idle = [worker for worker in self._workers.values() if worker.at is None][:wanted]
        for number in range(self._count):
            if len(idle) < wanted and number not in self._workers:
                gpu = visible_gpu(number, self._gpus, os.environ.get(VISIBLE))
                self._workers[number] = _Worker(gpu)
                idle.append(self._workers[number])
        return idle

    def _collect(self, waiting: "deque[int]", outcomes: dict[int, tuple[bool, Any]], deaths: "Counter[int]") -> None:
        """Wait until something is known; what a dead worker was at waits again, and comes next."""
        busy = [(number, worker, worker.at) for number, worker in self._workers.items() if worker.at is not None]
        ready = wait([worker.pipe for _, worker, _ in busy])
        for number, worker, at in busy:
            if worker.pipe not in ready:
                continue
            outcome = worker.take()
            if outcome is not None:
                outcomes[at] = outcome
                continue
            del self._workers[number]
            worker.end()
            deaths[at] += 1
            if deaths[at] > RESTARTS:
                outcomes[at] = (False, _given_up(worker.process.exitcode))
            else:
                waiting.appendleft(at)

    def _end_busy(self) -> None:
        for number, worker in list(self._workers.items()):
            if worker.at is not None:
                del self._workers[number]
                worker.end()


def _given_up(code: int | None) -> EnvironmentLacks:
    return EnvironmentLacks(
        "worker processes are killed again and again",
        expected="workers that live until their work is done",
        found=f"{RESTARTS + 1} that died at the same work, the last with exit code {code}",
        fix="free some memory, which -9 says has run out, or ask for fewer workers",
    )
