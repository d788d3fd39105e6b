"""Rank correlation of training-free scores with a table of trained networks."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.runtime.errors import UsageError
from factory.engine import Engine
from factory.evidence.ablation import SIDES, STANDARD_SAMPLES, Ablate, ablation, sides_for
from factory.evidence.measures import OURS, PROXY_PIXELS, Measure, Measured, regulariser_for
from factory.evidence.pictures import load_pictures
from factory.evidence.rows import FEWEST, compare
from factory.evidence.tables import Table, Trained, load_table
from factory.score.protocol import ScoreProtocol
from factory.search.scorer import Scorer
from factory.spaces.protocol import Space


@dataclass(frozen=True, slots=True)
class Question:
    """Which scores are to be compared with which column of which table.

    Attributes:
        space: of the table's networks.
        table: path of a .csv or .jsonl.
        metric: the column of the trained result; more is better.
        where: columns and values that select rows.
        sample: how many networks to draw; None takes all.
        seed: of the draw, the pictures, the initialisations and the bootstrap.
        protocol: of SWAP-Score; its network and its pictures are those of the other metrics too.
        images: where the pictures are; None makes some.
        scores: names of `factory.evidence.measures.SCORES`.
        ablate: whether to compare kinds of activation patterns over input sizes, too.
    """

    space: Space
    table: Path
    metric: str
    where: tuple[tuple[str, str], ...]
    sample: int | None
    seed: int
    protocol: ScoreProtocol
    images: Path | None
    scores: tuple[str, ...]
    ablate: bool


def read(question: Question) -> Table:
    """Read the table that the question is about, and draw its sample."""
    others = [name for name in question.scores if name not in OURS]
    table = load_table(question.table, question.space, question.metric, question.where, others)
    if question.sample is None or question.sample >= len(table.networks):
        return table
    rng = np.random.default_rng(question.seed)
    rows = np.sort(rng.choice(len(table.networks), question.sample, replace=False))
    return Table([table.networks[row] for row in rows], table.without_result)


@dataclass(frozen=True, slots=True)
class _Pair:
    trained: Trained
    measured: Measured

    def score(self, name: str) -> float:
        return self.trained.scores.get(name, self.measured.scores.get(name, math.nan))


def correlate(question: Question, table: Table, engine: Engine, tick: Callable[[], None]) -> dict[str, Any]:
    """Answer the question: the JSON document of `factory correlate`, the same whatever the engine but for its seconds.

    Args:
        question: what is asked.
        table: what `read` returns.
        engine: maps the measurement over the networks.
        tick: called once a network, in an ablation twice.

    Raises:
        UsageError: if fewer than three networks are left to compare.
    """
    measure = _measure(question, table)
    found = engine.map(measure, [network.arch for network in table.networks])
    pairs: list[_Pair] = []
    for trained, measured in zip(table.networks, found, strict=True):
        tick()
        if measured is not None:
            pairs.append(_Pair(trained, measured))
    if len(pairs) < FEWEST:
        raise UsageError(
            "too few networks to rank",
            expected=f"{FEWEST} or more with a path and a result",
            found=f"{len(pairs)} of {len(table.networks)} rows",
            fix="Give a larger table, or fewer conditions",
        )
    truth = np.array([pair.trained.truth for pair in pairs])
    scores = {name: np.array([pair.score(name) for pair in pairs]) for name in question.scores}
    sizes = np.array([pair.measured.params for pair in pairs])
    document = _about(question, table, measure, pairs) | compare(scores, truth, sizes, question.seed)
    for row in document["rows"]:
        took = [pair.measured.seconds[row["score"]] for pair in pairs if row["score"] in pair.measured.seconds]
        row |= {"source": "ours" if took else "table", "seconds": float(np.mean(took)) if took else None}
    if question.ablate:
        document |= _ablated(question, measure, pairs, truth, engine, tick)
    return document


def _measure(question: Question, table: Table) -> Measure:
    protocol = question.protocol
    size = protocol.image_size or PROXY_PIXELS
    pictures = load_pictures(question.images, protocol.samples, size, question.seed)
    scorer = Scorer(question.space, pictures, question.space.full.classes, question.seed, protocol)
    brought = {name for network in table.networks for name in network.scores}
    names = tuple(name for name in question.scores if name not in brought)
    return Measure(scorer, names, regulariser_for(question.space, protocol, question.seed))


def _about(question: Question, table: Table, measure: Measure, pairs: list[_Pair]) -> dict[str, Any]:
    saturations = [pair.measured.swap.saturation for pair in pairs if pair.measured.swap is not None]
    return {
        "space": question.space.name,
        "table": str(question.table),
        "metric": question.metric,
        "where": dict(question.where),
        "n": len(pairs),
        "invalid": len(table.networks) - len(pairs),
        "without_result": table.without_result,
        "best_trained": max(pair.trained.truth for pair in pairs),
        "protocol": asdict(question.protocol) | {"digest": question.protocol.digest},
        "pictures": "made" if question.images is None else str(question.images),
        "regulariser": asdict(measure.size_factor),
        "median_saturation": float(np.median(saturations)) if saturations else None,
    }


def _ablated(
    question: Question,
    measure: Measure,
    pairs: list[_Pair],
    truth: NDArray[np.float64],
    engine: Engine,
    tick: Callable[[], None],
) -> dict[str, Any]:
    sides = sides_for(question.space.name)
    images = load_pictures(question.images, STANDARD_SAMPLES, max(SIDES), question.seed)
    factors = np.array([measure.size_factor.factor(pair.measured.proxy_params) for pair in pairs])
    archs = [pair.trained.arch for pair in pairs]
    return {
        "ablation": ablation(Ablate(measure.scorer, images, sides), archs, factors, truth, engine, tick),
        "ablation_left_out": [side for side in SIDES if side not in sides],
    }
