"""How few architectures must be measured on a new device, alone and with what other devices taught?

python -m tests.benchmarks transfer      (needs ../shared/bench)

Every device of the tables in turn is the new one. Trained on 20, 50 and 100 random architectures, tested on the rest of
the table, medians of `DRAWS` draws. Beside the product's law: multiply-adds and parameters (a constant and so much
each), and an operator table (a constant and a latency for each kind of operation), fitted to the same architectures in
the same way. `taught`: with latencies of the same architectures on all other devices, as predicted by laws fitted to
`KNOWN` architectures of each, over the operator in each place; `by sums`: over the space's features. `by all`: as
`taught`, by all architectures of the other devices; `others`: with their latencies as measured, so of the very
architectures that are ranked. Other batch sizes of the same device are never among the others. Last, the ceilings.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from factory.cost.latency import Floats, fit_law
from factory.cost.transfer import fit_transfer
from tests.benchmarks.ceiling import ceilings
from tests.benchmarks.latency_tables import ESTIMATED, LatencyTable, fbnet, is_cpu_or_gpu, nasbench201

BENCH: Final = Path(__file__).parents[3] / "shared" / "bench"
SAMPLES: Final = (20, 50, 100)
DRAWS: Final = 5
KNOWN: Final = 500
WITHIN: Final = 0.1

Rows = NDArray[np.intp]
Figures = tuple[float, ...]  # Spearman, and the share within 10 %
Predict = Callable[[Rows, Rows, Floats], Floats]  # (train, test, measured ms of train) to predicted ms of test


def _by(terms: Floats) -> Predict:
    return lambda train, test, ms: fit_law(terms[train], ms).predict(terms[test])


def _with(own: Floats, others: Floats) -> Predict:
    both = np.column_stack([own, others])
    return lambda train, test, ms: fit_transfer(own[train], others[train], ms).predict(both[test])


def _one_and(column: Floats) -> Floats:
    return np.column_stack([np.ones(len(column)), column])


def _laws(terms: Floats, ms: Floats, known: Rows) -> Floats:
    """Latencies (N, D) of all architectures by one law for each device, fitted to the known ones."""
    return np.column_stack([fit_law(terms[known], column[known]).predict(terms) for column in ms.T])


def _taught(table: LatencyTable) -> dict[str, Floats]:
    everything = np.arange(len(table.ms))
    known = np.random.default_rng(1000).choice(everything, KNOWN, replace=False)
    return {
        "by sums": _laws(table.features, table.ms, known),
        "taught": _laws(table.places, table.ms, known),
        "by all": _laws(table.places, table.ms, everything),
        "others": table.ms,
    }


def judge(predict: Predict, ms: Floats, number: int) -> tuple[float, float]:
    """Medians over the draws: Spearman, 0 of predictions that are all the same, and the share within 10 %."""
    found = []
    for seed in range(DRAWS):
        order = np.random.default_rng(seed).permutation(len(ms))
        train, test = order[:number], order[number:]
        guessed = predict(train, test, ms[train])
        rank = spearmanr(guessed, ms[test])[0] if np.ptp(guessed) > 0 else 0.0
        found.append((rank, np.mean(np.abs(guessed / ms[test] - 1) <= WITHIN)))
    rank, share = np.median(found, axis=0)
    return float(rank), float(share)


def _sides(table: LatencyTable, device: int, taught: dict[str, Floats]) -> dict[str, Predict]:
    others = table.others(table.devices[device])
    return {
        "MACs": _by(_one_and(table.macs)),
        "parameters": _by(_one_and(table.params)),
        "operators": _by(table.operators),
        "alone": _by(table.features),
    } | {name: _with(table.features, ms[:, others]) for name, ms in taught.items()}


def _cell(figures: Figures) -> str:
    rank, *shares = figures
    return " ".join([f"{rank:.3f}", *(f"{share:.0%}" for share in shares)])


def _show(title: str, results: dict[str, dict[str, Figures]]) -> None:
    names = list(next(iter(results.values())))
    print(f"\n{title}\n\n| device | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for device, row in results.items():
        print(f"| {device} | {' | '.join(map(_cell, row.values()))} |")
    groups: dict[str, Sequence[str]] = {
        "measured": [d for d in results if d not in ESTIMATED],
        "CPUs and GPUs": [d for d in results if is_cpu_or_gpu(d)],
    }
    for group, devices in groups.items():
        medians = [tuple(np.median([results[d][name] for d in devices], axis=0)) for name in names]
        print(f"| **median of {len(devices)} {group}** | {' | '.join(map(_cell, medians))} |", flush=True)


def main() -> None:
    """Print Spearman and the share within 10 % of every device, method and number of measured architectures."""
    for table in (nasbench201(BENCH), fbnet(BENCH)):
        taught = _taught(table)
        for number in SAMPLES:
            results: dict[str, dict[str, Figures]] = {
                name: {side: judge(by, table.ms[:, i], number) for side, by in _sides(table, i, taught).items()}
                for i, name in enumerate(table.devices)
            }
            _show(f"{table.name}, {number} measured architectures, {DRAWS} draws", results)
        limits: dict[str, dict[str, Figures]] = {
            name: {side: (rank,) for side, rank in ceilings(table, i, taught["by all"]).items()}
            for i, name in enumerate(table.devices)
        }
        _show(f"{table.name}, four fifths measured", limits)
