"""How mu and sigma should be chosen: none, naive, derived from the space, best in hindsight.

python -m tests.benchmarks regulariser      (needs ../shared/bench; NAS-Bench-201 scores of `regret`, if it has run)
"""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from torch import Tensor

from factory.engine import engine
from factory.evidence.pictures import load_pictures
from factory.evidence.statistics import spearman
from factory.score.protocol import PAPER, ScoreProtocol
from factory.score.regulariser import SizeRegulariser, derived
from factory.search.scorer import Scorer
from factory.spaces.counting import parameters
from factory.spaces.darts import Darts
from tests.benchmarks.regret import PICTURES, SHARED, TABLE, TASKS

DARTS: Final = SHARED / "bench" / "darts1000_c10.csv"
REPEATS: Final = 8


@dataclass(frozen=True)
class Scored:
    """SWAP-Score and parameters of the proxy of one DARTS cell."""

    images: Tensor
    protocol: ScoreProtocol

    def __call__(self, arch: str) -> tuple[float, int] | None:
        swap = Scorer(Darts(), self.images, 10, 0, self.protocol)(arch)
        params = parameters(lambda: Darts().network(arch, Darts().proxy))
        return None if swap is None else (swap.swap, params)


def hindsight(swap: np.ndarray, params: np.ndarray, truth: np.ndarray) -> tuple[float, SizeRegulariser]:
    """The best of a grid, chosen on the very networks it is judged on."""
    top = params.max() / 1e3
    grid = [
        SizeRegulariser(top * m, (top * w) ** 2) for m in np.arange(0.2, 1.6, 0.1) for w in np.geomspace(0.1, 4, 14)
    ]
    found = [(_rho(swap, params, truth, size), size) for size in grid]
    return max(found, key=lambda item: item[0])


def _rho(swap: np.ndarray, params: np.ndarray, truth: np.ndarray, size: SizeRegulariser) -> float:
    # in logarithms, where f does not vanish
    return spearman(np.log(swap) - (params / 1e3 - size.mu) ** 2 / size.sigma, truth)


def row(name: str, scored: Iterable[tuple[float, int, float]]) -> None:
    swap, params, truth = (np.array(column, np.float64) for column in zip(*scored, strict=True))
    top = params.max() / 1e3
    naive, rule = SizeRegulariser(top, top), derived(list(map(int, params)))
    best, size = hindsight(swap, params, truth)
    print(
        f"{name:28s} n {len(swap):4d}  params {spearman(params, truth):.3f}  none {spearman(swap, truth):.3f}  "
        f"mu = sigma = largest {_rho(swap, params, truth, naive):.3f}  derived {_rho(swap, params, truth, rule):.3f}  "
        f"hindsight {best:.3f} (mu {size.mu / top:.2f}, sigma ({size.sigma**0.5 / top:.2f})^2 of the largest)"
    )


def main(runs: Path, workers: int, number: int) -> None:
    with DARTS.open() as file:
        rows = list(csv.DictReader(file))[:number]
    archs = [f"{one['normal']} | {one['reduce']}" for one in rows]
    protocol = replace(PAPER, repeats=REPEATS)
    with engine("processes", workers, None) as pool:
        found = list(pool.map(Scored(load_pictures(PICTURES, 16, 32, 0), protocol), archs))
    pairs = zip(found, rows, strict=True)
    row("DARTS cells, CIFAR-10", [(*one, float(r["cifar10_val"])) for one, r in pairs if one])
    for path in sorted((runs / "regret").glob("scores-*.jsonl")):
        cells = dict(map(json.loads, path.read_text().splitlines()))
        with TABLE.open() as file:
            table = {one["arch"]: one for one in csv.DictReader(file)}
        for task, column in TASKS.items():
            known = ((value, float(table[arch][column])) for arch, value in cells.items() if value)
            row(f"NAS-Bench-201, {task}", [(value[0], value[2], truth) for value, truth in known])
