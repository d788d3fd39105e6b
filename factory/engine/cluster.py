"""A Ray cluster: one that this machine has joined, or one started here for as long as it is needed.

The machines of a cluster hold the same version of this package and of Ray, as tasks are pickled by name. The death of
a worker or of its whole machine loses nothing: Ray computes elsewhere what was computed there.
"""

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from typing import Any, Final, TypeVar

import torch

from export.runtime.errors import EnvironmentLacks

T = TypeVar("T")
R = TypeVar("R")

REACHED_WITHIN = 30.0  # seconds
RETRIES: Final = 10  # deaths of workers that one item may meet; without an end, an item that kills would never fail
AHEAD: Final = 2  # items sent a CPU: one at work and one that waits
PROBE: Final = "import sys, ray; ray.init(sys.argv[1])"


def _ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read at import and by every process that Ray starts
    try:
        import ray
    except ImportError:
        raise EnvironmentLacks(
            "Ray is not installed",
            expected="the package ray",
            fix="install the extra 'ray': pip install 'edge-model-factory[ray]'",
        ) from None
    return ray


@lru_cache(maxsize=1)
def _task(reference: Any) -> Callable[[Any], Any]:
    task: Callable[[Any], Any] = pickle.loads(_ray().get(reference))  # noqa: S301 - from the process that maps
    return task


def _call(boxed: list[Any], item: Any) -> bytes:
    # in a list, as Ray fetches and copies a bare reference for every item; in bytes, as its own arrays are read-only
    task = _task(boxed[0])
    torch.set_num_threads(1)  # every time, as a task may have changed it
    try:
        return pickle.dumps((True, task(item)))
    except Exception as error:
        error.add_note(f"in a worker of Ray:\n{traceback.format_exc()}")
        return pickle.dumps((False, error))


class Cluster:
    """Tasks on all CPUs of the cluster this process is connected to."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._run = ray.remote(num_cpus=1, max_retries=RETRIES)(_call)
        self._task: Callable[[Any], Any] | None = None
        self._reference: Any = None

    def map(self, task: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """As `Engine.map`."""
        if task is not self._task:
            self._task, self._reference = task, self._ray.put(pickle.dumps(task))
        limit = AHEAD * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        sent: deque[Any] = deque()  # in order, the first not yet yielded
        running: list[Any] = []
        for item in items:
            if len(running) == limit:
                _, running = self._ray.wait(running)
                while sent[0] not in running:
                    yield self._result(sent.popleft())
            running.append(self._run.remote([self._reference], item))
            sent.append(running[-1])
        while sent:
            yield self._result(sent.popleft())

    def _result(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            done, value = pickle.loads(self._ray.get(reference))  # noqa: S301 - from a worker of our own
        except errors.RayTaskError as error:
            raise EnvironmentLacks(
                "a machine of the Ray cluster cannot run the work",
                expected="the same version of edge-model-factory on every machine of the cluster",
                found=str(error).strip().splitlines()[-1],
                fix="install it there, with its extra 'workstation'",
            ) from error
        except errors.RayError as error:
            raise EnvironmentLacks(
                "workers of the Ray cluster are killed again and again",
                expected="workers that live until their work is done",
                found=str(error).strip().splitlines()[0],
                fix="look at the memory of the cluster's machines; the logs are in /tmp/ray there",
            ) from error
        if not done:
            raise value
        return value


def _check_reach(address: str) -> None:
    """Connect in a process that can be killed: Ray itself tries for minutes, and cannot be interrupted."""
    try:
        command = [sys.executable, "-c", PROBE, address]
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=REACHED_WITHIN)
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"no answer within {REACHED_WITHIN:g} s") from None
    except subprocess.CalledProcessError as error:
        raise _unreachable(address, (error.stderr.strip().splitlines() or ["no answer"])[-1]) from None


def _unreachable(address: str, found: str) -> EnvironmentLacks:
    return EnvironmentLacks(
        "the Ray cluster cannot be reached",
        expected=f"a cluster at {address!r} that this machine has joined",
        found=found,
        fix="start one with: ray start --head; join it from each machine with: ray start --address HOST:PORT",
    )


def _connect(ray: Any, workers: int, address: str | None) -> None:
    here = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    there = {"address": address}
    try:
        ray.init(**(here if address is None else there), log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if address is None:
            raise EnvironmentLacks("Ray does not start on this machine", found=str(error)) from error
        raise _unreachable(address, str(error)) from error


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler that Ray replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def cluster(workers: int, address: str | None) -> Iterator[Cluster]:
    """Connect to the cluster at `address`, or start one of `workers` CPUs here if that is None.

    Until the context ends, what is printed goes to stderr: Ray prints what befalls its machines, and stdout is kept
    for the result of a command. Nothing is reported to the makers of Ray.

    Raises:
        EnvironmentLacks: if Ray is not installed, does not start, or finds no cluster in time.
    """
    ray = _ray()
    if address is not None:
        _check_reach(address)
    with _own_sigterm(), redirect_stdout(sys.stderr):
        try:
            _connect(ray, workers, address)
            yield Cluster(ray)
        finally:
            ray.shutdown()
