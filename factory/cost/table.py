"""The latency table of a line on its device: a few networks of the space, measured, and the model fitted to them."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from factory.cost.book import LatencyBook
from factory.cost.count import count
from factory.cost.latency import LatencyModel, fit_latency
from factory.profiles import BudgetLimits, SpaceLimits
from factory.spaces.plan import Input
from factory.spaces.residual import Genome, plan
from factory.spaces.restriction import EVERYTHING, draw
from factory.workspace import read_json, write_json

SCOUTS: Final = 8  # measured first, to learn how many MACs a millisecond buys here
MEASURED: Final = 40
SPREAD: Final = (0.1, 1.6)  # wanted latencies, as shares of the budget
DRAWS: Final = 3000


def _design(
    picture: Input,
    classes: int,
    limits: BudgetLimits,
    book: LatencyBook,
    tick: Callable[[], None],
    space: SpaceLimits,
) -> list[Genome]:
    """Genomes that the line allows, whose latencies spread evenly, on a log scale, around the budget."""
    rng = np.random.default_rng(0)
    drawn = [draw(space, rng, picture) for _ in range(DRAWS)]
    macs = np.array([count(plan(g, picture, classes)).macs for g in drawn])
    small = np.argsort(macs)[DRAWS // 20 :: DRAWS // (2 * SCOUTS)][:SCOUTS]
    scouts = [drawn[i] for i in small]
    measured = book.measure([plan(g, picture, classes) for g in scouts], tick)
    macs_per_ms = float(np.median(macs[small] / measured))
    wanted = np.geomspace(*SPREAD, MEASURED - SCOUTS) * limits.latency_ms * macs_per_ms
    chosen, free = scouts, np.ones(DRAWS, bool)
    free[small] = False
    for target in wanted:
        nearest = int(np.argmin(np.where(free, np.abs(np.log(macs / target)), np.inf)))
        free[nearest] = False
        chosen.append(drawn[nearest])
    return chosen


def measure_table(
    picture: Input,
    classes: int,
    limits: BudgetLimits,
    book: LatencyBook,
    folder: Path,
    tick: Callable[[], None],
    space: SpaceLimits = EVERYTHING,
) -> None:
    """Measure `MEASURED` networks and fit the model; write latency.json into `folder`."""
    genomes = _design(picture, classes, limits, book, tick, space)
    plans = [plan(g, picture, classes) for g in genomes]
    measured = book.measure(plans[:SCOUTS], lambda: None) + book.measure(plans[SCOUTS:], tick)
    model = fit_latency(plans, measured)
    rows = [
        {"genome": str(g), "measured_ms": ms, "predicted_ms": round(model.predict(p), 5)}
        for g, p, ms in zip(genomes, plans, measured, strict=True)
    ]
    write_json(folder / "latency.json", {"fingerprint": book.fingerprint, "model": asdict(model), "measured": rows})


def load_table(folder: Path) -> tuple[LatencyModel, dict[str, Any]]:
    """Read the model and the whole document of `measure_table`."""
    document = read_json(folder / "latency.json")
    fitted = document["model"]
    return LatencyModel(tuple(fitted["weights"]), fitted["margin"], fitted["median_error"]), document
