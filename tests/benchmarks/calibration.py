"""The search's default ranking: fitted on trained networks of several lines, tested on the line left out.

python -m tests.benchmarks calibration

Reads tests/benchmarks/trained/*.jsonl (made by train-many) and prints, for every line, how well each single feature
ranks, how well the ranking fitted to the *other* lines does, and the exponents fitted to all, which are those of
factory/score/calibration.py.
"""

import json
from pathlib import Path
from typing import Final

import numpy as np

from factory.cost.count import count
from factory.evidence.fit import Trained, fit, left_out, scores
from factory.evidence.statistics import bootstrap, regret, spearman
from factory.score.calibration import CALIBRATED, FEATURES
from factory.score.ranking import Features
from factory.search.candidate import Costs, features
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan

TABLES: Final = Path(__file__).parent / "trained"
SHAPES: Final = {
    "cifar10": (Input(32, 32, 3), 10),
    "solar-cells": (Input(32, 32, 1), 2),
    "steel-surface": (Input(32, 32, 1), 6),
}
SINGLE: Final = ("params", "macs", "latency_ms", "positions", "late_macs", "narrowest", "convolutions", "width")
SHORTLIST: Final = 5
DRAWS: Final = 2000


def features_of(genome: str, latency_ms: float, line: str) -> Features:
    """Everything but SWAP-Score, which no calibrated ranking reads."""
    picture, classes = SHAPES[line]
    costs = Costs(count(plan(parse(genome), picture, classes)), latency_ms, latency_ms)
    return features(costs, 1.0)


def load(line: str) -> tuple[Trained, np.ndarray]:
    """Features and truth of a line's networks (truth: minus the loss on images not trained on), and their accuracy."""
    rows = [json.loads(row) for row in (TABLES / f"{line}.jsonl").read_text().splitlines()]
    known = tuple(features_of(row["genome"], row["latency_ms"], line) for row in rows)
    return Trained(known, np.array([-row["loss"] for row in rows])), np.array([row["accuracy"] for row in rows])


def trained() -> dict[str, tuple[Trained, np.ndarray]]:
    return {line: load(line) for line in SHAPES if (TABLES / f"{line}.jsonl").exists()}


def _row(name: str, score: np.ndarray, line: Trained, accuracy: np.ndarray) -> None:
    low, high = bootstrap(score, line.truth, spearman, DRAWS, 0)
    missed = 100 * regret(score, accuracy, SHORTLIST)
    print(f"  {name:34s} {spearman(score, line.truth):+.2f} ({low:+.2f} to {high:+.2f})   {missed:.1f}")


def main() -> None:
    lines = trained()
    for name, (line, accuracy) in lines.items():
        print(f"\n{name}: {len(line.truth)} networks, accuracy {accuracy.min():.3f} to {accuracy.max():.3f};", end=" ")
        print(f"Spearman with the loss (95 %), regret of the best {SHORTLIST} in points of accuracy")
        for feature in SINGLE:
            sign = -1 if feature == "convolutions" else 1
            values = np.array([sign * float(getattr(one, feature)) for one in line.features])
            _row(f"{'fewer ' if sign < 0 else ''}{feature}", values, line, accuracy)
        others = [other for key, (other, _) in lines.items() if key != name]
        _row("fitted to the other lines", scores(fit(others, FEATURES, "others"), line.features), line, accuracy)
        _row("fitted to this line, one left out", left_out(line, FEATURES), line, accuracy)
    fitted = fit([line for line, _ in lines.values()], FEATURES, CALIBRATED.name)
    print("\nfitted to all:", ", ".join(f"{feature} ^ {exponent:.3f}" for feature, exponent in fitted.exponents))
    print("shipped:      ", ", ".join(f"{feature} ^ {exponent:.3f}" for feature, exponent in CALIBRATED.exponents))
