"""What SWAP-NAS finds on NAS-Bench-201, against random search and against other scores: 30 seeds.

python -m tests.benchmarks regret      (needs ../shared/bench/nb201_dev.csv; scores are kept in runs/regret)

Only cells of the table can be visited. Every method spends the same number of scores; what it found is the cell of the
highest score, and its regret is the best test accuracy of the table minus that cell's.
"""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import matplotlib
import numpy as np
from torch import Tensor

from factory import progress
from factory.engine import engine
from factory.evidence.pictures import load_pictures
from factory.score.protocol import FACTORY
from factory.score.regulariser import derived
from factory.score.zerocost import METRICS
from factory.search.scorer import Scorer
from factory.search.swapnas import swap_nas
from factory.spaces.counting import parameters
from factory.spaces.nasbench201 import NasBench201
from factory.spaces.protocol import Size

SHARED: Final = Path(__file__).parents[3] / "shared"
TABLE: Final = SHARED / "bench" / "nb201_dev.csv"
PICTURES: Final = SHARED / "data" / "cifar10" / "cifar10_lossless_subset.npz"
SPACE: Final = NasBench201()
CELLS: Final = 4000  # of the table, drawn once: all of them would take an hour on two cores
PROTOCOL: Final = replace(FACTORY, image_size=32, repeats=2).sized(SPACE.proxy.channels, SPACE.proxy.depth)
NUMBERS: Final = (25, 50, 100, 200, 400)
SEEDS: Final = 30
TASKS: Final = {"CIFAR-10": "cifar10_test", "CIFAR-100": "cifar100_test", "ImageNet16-120": "imagenet16_120_test"}


@dataclass(frozen=True)
class Both:
    """SWAP-Score, NWOT, parameters of the proxy and saturation of one cell; None where no path leads through it."""

    images: Tensor

    def __call__(self, arch: str) -> tuple[float, float, int, float] | None:
        swap = Scorer(SPACE, self.images, 10, 0, PROTOCOL)(arch)
        if swap is None:
            return None
        size = Size(SPACE.proxy.channels, SPACE.proxy.depth, 10)
        nwot = METRICS["nwot"](SPACE.network(arch, size), self.images, Tensor(), 0)
        return swap.swap, nwot, parameters(lambda: SPACE.network(arch, size)), swap.saturation


def scored(archs: Sequence[str], folder: Path, workers: int) -> dict[str, tuple[float, float, int, float] | None]:
    """Score every cell once; what is done is kept."""
    path = folder / f"scores-{PROTOCOL.digest[:12]}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    known = dict(map(json.loads, path.read_text().splitlines())) if path.exists() else {}
    missing = [arch for arch in archs if arch not in known]
    task = Both(load_pictures(PICTURES if PICTURES.exists() else None, PROTOCOL.samples, 32, 0))
    with (
        progress.ticker("cells", len(missing)) as tick,
        engine("processes", workers, None) as pool,
        path.open("a") as file,
    ):
        for arch, found in zip(missing, pool.map(task, missing), strict=True):
            known[arch] = found
            file.write(json.dumps([arch, found]) + "\n")
            tick()
    return {arch: known[arch] for arch in archs}


def curve(told: Sequence[tuple[str, float]], truth: dict[str, float]) -> list[float]:
    """Truth of the best-scored cell after each of NUMBERS scores."""
    return [truth[max(told[:number], key=lambda item: (item[1], item[0]))[0]] for number in NUMBERS]


def methods(values: dict[str, tuple[float, float, int, float] | None]) -> dict[str, Callable[[str], float | None]]:
    size = derived([value[2] for value in values.values() if value])

    def of(score: Callable[[tuple[float, float, int, float]], float]) -> Callable[[str], float | None]:
        return lambda arch: None if (value := values[arch]) is None else score(value)

    return {
        "SWAP, regularised": of(lambda v: v[0] * size.factor(v[2])),
        "SWAP": of(lambda v: v[0]),
        "NWOT": of(lambda v: v[1]),
        "parameters": of(lambda v: float(v[2])),
    }


def one_run(score: Callable[[str], float | None], archs: Sequence[str], seed: int) -> list[tuple[str, float]]:
    """Evolution with one seed, on the cells of the table."""
    table = set(archs)

    def many(asked: Sequence[str]) -> Iterable[float | None]:
        return [score(arch) for arch in asked]

    return swap_nas(SPACE, many, NUMBERS[-1] + 60, np.random.default_rng(seed), table.__contains__)


def main(runs: Path, workers: int) -> None:
    if not TABLE.exists():
        raise SystemExit(f"expected the table {TABLE}, which is not there")
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:CELLS]]
    archs = [row["arch"] for row in rows]
    values = scored(archs, runs / "regret", workers)
    results: dict[str, dict[str, list[list[float]]]] = {}
    for task, column in TASKS.items():
        truth = {row["arch"]: float(row[column]) for row in rows}
        best = max(truth.values())
        found: dict[str, list[list[float]]] = {}
        for name, score in methods(values).items():
            found[name] = [[best - t for t in curve(one_run(score, archs, seed), truth)] for seed in range(SEEDS)]
        swap, rng = methods(values)["SWAP, regularised"], np.random.default_rng(0)
        drawn = [[archs[i] for i in rng.permutation(len(archs))] for _ in range(SEEDS)]
        told = [[(arch, s) for arch in order[: NUMBERS[-1] + 60] if (s := swap(arch)) is not None] for order in drawn]
        found["random, best by SWAP"] = [[best - t for t in curve(one, truth)] for one in told]
        found["random cell"] = [[best - truth[order[0]]] * len(NUMBERS) for order in drawn]
        results[task] = found
        _print(task, best, found)
    (runs / "regret" / "regret.json").write_text(json.dumps({"numbers": NUMBERS, "regret": results}))
    _draw(results, runs / "regret" / "regret.png")


def _print(task: str, best: float, found: dict[str, list[list[float]]]) -> None:
    print(f"\n{task}: regret in points (best of the table {best:.2f} %), median of {SEEDS} seeds (quartiles)")
    print(f"{'method':24s}" + "".join(f"{number:>20d}" for number in NUMBERS))
    for name, curves in found.items():
        q = np.percentile(curves, (25, 50, 75), axis=0)
        print(f"{name:24s}" + "".join(f"{m:>7.2f} ({lo:5.2f}-{hi:5.2f})" for lo, m, hi in q.T))


def _draw(results: dict[str, dict[str, list[list[float]]]], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(results), figsize=(12, 3.8), constrained_layout=True)
    for axes, (task, found) in zip(panels, results.items(), strict=True):
        for name, curves in found.items():
            low, middle, high = np.percentile(curves, (25, 50, 75), axis=0)
            ours = name.startswith("SWAP")
            (drawn,) = axes.plot(NUMBERS, middle, label=name, lw=2.2 if ours else 1.2, ls="-" if ours else "--")
            axes.fill_between(NUMBERS, low, high, alpha=0.12, color=drawn.get_color())
        axes.set(xscale="log", yscale="log", title=task, xlabel="scores spent", xticks=NUMBERS)
        axes.set_xticklabels(map(str, NUMBERS))
        axes.minorticks_off()
    panels[0].set_ylabel("regret, points of test accuracy")
    panels[-1].legend(fontsize=8)
    figure.savefig(path, dpi=110)
