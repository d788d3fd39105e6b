"""Scores of many genomes, in order, on one process or several, with the same result."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from torch import Tensor

from factory.score.swap import SwapScore, swap_score
from factory.spaces.network import build
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan


@dataclass(frozen=True, slots=True)
class Scorer:
    """The score of a genome as a pure function: the images, the shape, the settings."""

    images: Tensor  # float32 (S, C, H, W), normalised
    classes: int
    seed: int
    repeats: int

    def __call__(self, genome: str) -> SwapScore | None:
        """Score one genome on one thread: sums of floats, and so signs, may differ with the number of threads."""
        _, channels, height, width = self.images.shape
        network = plan(parse(genome), Input(height, width, channels), self.classes)
        return swap_score(lambda: build(network), self.images, self.seed, self.repeats)


_scorer: Scorer | None = None


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _start(scorer: Scorer, parent: int) -> None:
    global _scorer  # noqa: PLW0603 - the images travel once to a worker, not with every genome
    _scorer = scorer
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _score(genome: str) -> SwapScore | None:
    assert _scorer is not None
    return _scorer(genome)


class Pool:
    """Maps a scorer over genomes; results come in the order asked."""

    def __init__(self, scorer: Scorer, executor: ProcessPoolExecutor | None) -> None:
        self._scorer, self._executor = scorer, executor

    def map(self, genomes: Sequence[str]) -> Iterator[SwapScore | None]:
        """Yield the score of each genome in order."""
        if self._executor is not None:
            yield from self._executor.map(_score, genomes)
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from map(self._scorer, genomes)
        finally:
            torch.set_num_threads(threads)


@contextmanager
def pool(scorer: Scorer, workers: int) -> Iterator[Pool]:
    """Open `workers` processes, or none when one is enough. They end with this process, however it ends."""
    if workers == 1:
        yield Pool(scorer, None)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(scorer, os.getpid())) as executor:
        try:
            yield Pool(scorer, executor)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
