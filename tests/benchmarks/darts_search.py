"""SWAP-NAS on DARTS: search a CIFAR-10 cell for a given mu = sigma, as the paper does.

python -m tests.benchmarks darts-search --mu 1.5 --number 2000

Protocol `paper` (one cell, 3 channels, 16 pictures, 32 initialisations). The proxy network has a single cell, so one
cell is searched and serves as both, as in the authors' own benchmark.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from factory import progress
from factory.engine import engine
from factory.evidence.pictures import load_pictures
from factory.score.protocol import PAPER
from factory.score.regulariser import SizeRegulariser
from factory.search.scorer import Scorer
from factory.search.swapnas import swap_nas
from factory.spaces.counting import parameters
from factory.spaces.darts import Darts
from factory.spaces.protocol import Size


class OneCell(Darts):
    """The same cell twice."""

    def sample(self, rng: np.random.Generator) -> str:
        return super().sample(rng).split(" | ")[0]

    def mutate(self, arch: str, rng: np.random.Generator) -> str:
        cells = super().mutate(self.check(arch), rng).split(" | ")
        return next(cell for cell in cells if cell != arch)

    def crossover(self, a: str, b: str, rng: np.random.Generator) -> str:
        return super().crossover(self.check(a), self.check(b), rng).split(" | ")[0]


@dataclass(frozen=True)
class Regularised:
    """SWAP times f of the parameters of the proxy, in thousands."""

    images: Tensor
    size: SizeRegulariser

    def __call__(self, arch: str) -> float | None:
        space = OneCell()
        swap = Scorer(space, self.images, 10, 0, PAPER)(arch)
        if swap is None:
            return None
        return swap.swap * self.size.factor(params(arch, space.proxy))


def params(arch: str, size: Size) -> int:
    return parameters(lambda: OneCell().network(arch, size))


def main(mu: float, number: int, workers: int, pictures: Path | None) -> None:
    task = Regularised(load_pictures(pictures, PAPER.samples, 32, 0), SizeRegulariser(mu, mu))
    start, done = time.perf_counter(), 0
    with progress.bar("cells", number) as update, engine("processes", workers, None) as pool:

        def scores(asked: Sequence[str]) -> Iterable[float | None]:
            nonlocal done
            done += len(asked)
            update(done, "")
            return list(pool.map(task, asked))

        told = swap_nas(OneCell(), scores, number, np.random.default_rng(0), OneCell().connected)
    seconds = time.perf_counter() - start
    best = max(told, key=lambda item: item[1])
    print(f"{number} cells in {seconds:.0f} s with {workers} processes; the best, {best[1]:.0f}:")
    print(f"  {best[0]}")
    print(f"  {params(best[0], Darts().proxy) / 1e3:.2f} K parameters in the proxy, {mu:g} K wanted;", end=" ")
    print(f"{params(best[0], Size(36, 20, 10)) / 1e6:.2f} M in 20 cells of 36 channels")
    print(f"  best of the first 100, drawn or nearly so: {max(score for _, score in told[:100]):.0f}")
