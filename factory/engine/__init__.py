"""One ordered map for all work that can be divided: in this process, on others, on a cluster.

The result is the same on every engine of like machines, since each item is computed alone and on one thread.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

Name = Literal["serial", "processes", "ray"]


@dataclass(frozen=True, slots=True)
class Workers:
    """Who is to work: an engine's name, and for Ray the address of a cluster (see `engine`)."""

    name: Name
    address: str | None


class Engine(Protocol):
    """Something that computes a task for many items."""

    def map(self, task: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Yield `task(item)` for each item, in order, each as soon as it and those before it are known.

        Workers unpickle the task once and keep it until another task object comes: whoever maps again with the same
        object pays nothing for it. One map at a time. What the task raises is raised here, as it is.

        Raises:
            EnvironmentLacks: if workers die again and again.
        """


class Serial:
    """This process alone."""

    def map(self, task: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Compute an item when it is asked for, on one thread; the caller keeps its own number of threads."""
        for item in items:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                result = task(item)
            finally:
                torch.set_num_threads(threads)
            yield result


@contextmanager
def engine(name: Name, workers: int, address: str | None) -> Iterator[Engine]:
    """Open an engine; its workers end with the context, and with this process, however that ends.

    Args:
        name: which one.
        workers: number of processes, also of a Ray cluster that is started here; one process needs no other.
        address: of a Ray cluster that this machine has joined, "host:port" or "auto"; None starts one here.

    Raises:
        EnvironmentLacks: if Ray is not installed, or the cluster cannot be reached.
    """
    if name == "ray":
        from factory.engine.cluster import cluster

        with cluster(workers, address) as joined:
            yield joined
    elif name == "processes" and workers > 1:
        from factory.engine.processes import Processes

        pool = Processes(workers)
        try:
            yield pool
        finally:
            pool.stop()
    else:
        yield Serial()
