"""How few architectures must be measured on a new device, alone and with what other devices taught?

python -m tests.benchmarks transfer      (needs ../shared/bench)

Every device of the tables in turn is the new one. Trained on 20, 50 and 100 random architectures, tested on the rest of
the table, medians of `DRAWS` draws. Beside the product's law: multiply-adds and parameters (a constant and so much
each), and an operator table (a constant and a latency for each kind of operation), fitted to the same architectures in
the same way. `others`: latencies of the same architectures on all other devices, as measured. `taught`: as predicted by
laws fitted to `KNOWN` architectures of each, which is what a space has that no device has measured in full.
Other batch sizes of the same device are never among the others.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from factory.cost.latency import Floats, fit_law
from factory.cost.transfer import fit_transfer
from tests.benchmarks.latency_tables import ESTIMATED, LatencyTable, fbnet, is_cpu_or_gpu, nasbench201

BENCH: Final = Path(__file__).parents[3] / "shared" / "bench"
SAMPLES: Final = (20, 50, 100)
DRAWS: Final = 5
KNOWN: Final = 500
WITHIN: Final = 0.1

Rows = NDArray[np.intp]
Predict = Callable[[Rows, Rows, Floats], Floats]  # (train, test, measured ms of train) to predicted ms of test


def _by(terms: Floats) -> Predict:
    return lambda train, test, ms: fit_law(terms[train], ms).predict(terms[test])


def _with(own: Floats, others: Floats) -> Predict:
    both = np.column_stack([own, others])
    return lambda train, test, ms: fit_transfer(own[train], others[train], ms).predict(both[test])


def _one_and(column: Floats) -> Floats:
    return np.column_stack([np.ones(len(column)), column])


def _taught(table: LatencyTable) -> Floats:
    known = np.random.default_rng(1000).choice(len(table.ms), KNOWN, replace=False)
    laws = [fit_law(table.features[known], column[known]) for column in table.ms.T]
    return np.column_stack([law.predict(table.features) for law in laws])


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


def _sides(table: LatencyTable, device: int, taught: Floats) -> dict[str, Predict]:
    others = table.others(table.devices[device])
    return {
        "MACs": _by(_one_and(table.macs)),
        "parameters": _by(_one_and(table.params)),
        "operators": _by(table.operators),
        "alone": _by(table.features),
        "taught": _with(table.features, taught[:, others]),
        "others": _with(table.features, table.ms[:, others]),
    }


def _show(title: str, results: dict[str, dict[str, tuple[float, float]]]) -> None:
    names = list(next(iter(results.values())))
    print(f"\n{title}\n\n| device | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for device, row in results.items():
        print(f"| {device} | " + " | ".join(f"{rank:.3f} {share:.0%}" for rank, share in row.values()) + " |")
    groups: dict[str, Sequence[str]] = {
        "measured": [d for d in results if d not in ESTIMATED],
        "CPUs and GPUs": [d for d in results if is_cpu_or_gpu(d)],
    }
    for group, devices in groups.items():
        medians = [np.median([results[d][name] for d in devices], axis=0) for name in names]
        print(f"| **median of {len(devices)} {group}** | " + " | ".join(f"{r:.3f} {s:.0%}" for r, s in medians) + " |")


def main() -> None:
    """Print Spearman and the share within 10 % of every device, method and number of measured architectures."""
    for table in (nasbench201(BENCH), fbnet(BENCH)):
        taught = _taught(table)
        for number in SAMPLES:
            results = {
                name: {side: judge(by, table.ms[:, i], number) for side, by in _sides(table, i, taught).items()}
                for i, name in enumerate(table.devices)
            }
            _show(f"{table.name}, {number} measured architectures, {DRAWS} draws", results)
