"""The first stage of the search: thousands of networks scored without training."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import torch

from export.runtime.errors import GateError
from factory.data.dataset import Part
from factory.profiles import SearchSettings
from factory.score.swap import SizeRegulariser
from factory.search.candidate import Candidate, Pricing, pareto, ranked
from factory.search.evolution import evolve
from factory.search.pool import Scorer, pool
from factory.search.space import SpaceReport, survey
from factory.search.state import open_state
from factory.training.loop import Standard, to_device
from factory.workspace import read_json, write_json

WIDTH: Final = 0.5  # sigma = (WIDTH * mu)^2: at half the size aimed for, f is exp(-1)
STATE: Final = "search.sqlite"


def regulariser(report: SpaceReport) -> SizeRegulariser:
    """Aim at the upper end of what both budgets leave: the largest feasible network of the sample."""
    limits = report.limits
    feasible = [
        c.params
        for c in (*report.sample, *report.smallest)
        if c.size_mb <= limits.size_mb and c.latency_upper_ms <= limits.latency_ms
    ]
    mu = max(feasible) / 1e3
    return SizeRegulariser(mu, (WIDTH * mu) ** 2)


def score_images(train: Part, norm: Standard, samples: int, seed: int) -> torch.Tensor:
    """Draw `samples` training images, all classes in turn; float32 (S, C, H, W), normalised."""
    rng = np.random.default_rng(seed)
    queues = [list(rng.permutation(np.flatnonzero(train.labels == label))) for label in np.unique(train.labels)]
    rows: list[int] = []
    while len(rows) < min(samples, len(train.labels)):
        rows += [int(queue.pop()) for queue in queues if queue]
    return norm.apply(to_device(train.images[rows[:samples]], "cpu").float() / 255)


def search(
    settings: SearchSettings,
    pricing: Pricing,
    train: Part,
    norm: Standard,
    folder: Path,
    tick: Callable[[int], None],
) -> None:
    """Run the evolution in `folder`, going on from what is there; leave search.json.

    Raises:
        GateError: if the space cannot keep the budgets, saying which is the tightest.
    """
    report = survey(pricing)
    if not report.satisfiable:
        raise GateError("no network of the space keeps the budgets", found=report.tightest(), fix="raise that budget")
    size = regulariser(report)
    scorer = Scorer(
        score_images(train, norm, settings.samples, settings.seed),
        pricing.classes,
        settings.seed,
        settings.repeats,
    )
    with open_state(folder / STATE) as state, pool(scorer, settings.workers) as workers:
        told = evolve(settings, pricing, size, workers, state, tick)
    document = {
        "evaluated": len(told),
        "regulariser": asdict(size),
        "front": [asdict(c) for c in pareto(told)],
        "candidates": [asdict(c) for c in ranked(told)],
    }
    write_json(folder / "search.json", document)
    (folder / STATE).unlink()  # all of it is in the document now, which unlike the database has one form


def load_search(folder: Path) -> tuple[list[Candidate], list[Candidate], SizeRegulariser]:
    """All candidates best first, the front by latency, and the regulariser."""
    document = read_json(folder / "search.json")
    candidates = [Candidate(**row) for row in document["candidates"]]
    front = [Candidate(**row) for row in document["front"]]
    return candidates, front, SizeRegulariser(**document["regulariser"])
