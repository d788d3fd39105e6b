"""How good is predicted latency on networks that were not measured for the table?

python -m tests.benchmarks prediction
"""

import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from factory.cost.book import LatencyBook
from factory.cost.count import count
from factory.cost.table import load_table, measure_table
from factory.profiles import BudgetLimits, load_device
from factory.spaces.plan import Input
from factory.spaces.residual import plan, random_genome

TESTED = 40


def main() -> None:
    """Fit the table for 64 x 64 pictures and 0.4 ms, then measure random networks near the budget."""
    picture, limits = Input(64, 64, 1), BudgetLimits(device="cpu-x86", latency_ms=0.4, size_mb=1.0)
    with tempfile.TemporaryDirectory() as folder:
        book = LatencyBook(Path(folder), load_device("cpu-x86"))
        measure_table(picture, 2, limits, book, Path(folder), lambda: None)
        model, _ = load_table(Path(folder))
        rng, plans = np.random.default_rng(1), []
        while len(plans) < TESTED:
            candidate = plan(random_genome(rng, picture), picture, 2)
            if 0.05 <= model.predict(candidate) <= 0.6:
                plans.append(candidate)
        measured = np.array(book.measure(plans, lambda: None))
    predicted = np.array([model.predict(p) for p in plans])
    macs = np.array([count(p).macs for p in plans])
    error = predicted / measured - 1
    kept = np.array([model.upper(p) <= limits.latency_ms for p in plans])
    print(f"{TESTED} networks not in the table: median error {np.median(np.abs(error)):.1%}")
    print(
        f"within 10 %: {np.mean(np.abs(error) <= 0.1):.0%}; Spearman {spearmanr(predicted, measured)[0]:.3f}", end=" "
    )
    print(f"(MACs alone: {spearmanr(macs, measured)[0]:.3f})")
    broke = int((measured[kept] > limits.latency_ms).sum())
    print(
        f"margin {model.margin:.0%}: {kept.sum()} accepted under the bound, {broke} of them broke the budget, measured"
    )
