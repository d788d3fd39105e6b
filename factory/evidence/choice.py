"""Which score to search by: every score against trained networks of one line. Pure functions of arrays.

Intervals are of 95 %, by bootstrap over the networks; beyond chance means outside of them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from factory.evidence import statistics
from factory.evidence.rows import DRAWS, difference

Array = NDArray[np.float64]
Rows = Mapping[str, Mapping[str, Any]]

TOP: Final = 5  # networks of a shortlist whose regret is reported
SURE: Final = 0.9
COUNTS: Final = ("params", "macs")
PLAIN: Final = (*COUNTS, "latency")
TOLERATED: Final = 1.0  # standard errors that a plain count may be behind; with 1.96, all that chance explains
USABLE: Final = ("refitted", "calibrated", "regularised", "swap")  # what the search can rank by beside a plain count


def number(value: float | None) -> float:
    """A figure of a row, below all others where there is none."""
    return -math.inf if value is None else value


def compare(scores: Mapping[str, Array], truth: Array, accuracy: Array, seed: int) -> dict[str, dict[str, Any]]:
    """Compare every score with the truth and with the best plain count; values are JSON, None where there is none.

    Args:
        scores: (n,) by name, finite; `PLAIN` among them.
        truth: (n,), more is better.
        accuracy: balanced, (n,).
        seed: of the bootstraps.

    Returns:
        By name: score; spearman with its interval low to high; regret_top5, what the five of the highest score miss of
        the best balanced accuracy, in points; gain over the best of `PLAIN` in spearman, with gain_low and gain_high.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, score in scores.items():
        low, high = statistics.bootstrap(score, truth, statistics.spearman, DRAWS, seed)
        interval = {"spearman": statistics.spearman(score, truth), "low": low, "high": high}
        row = {key: None if math.isnan(value) else value for key, value in interval.items()}
        rows[name] = {"score": name, **row, "regret_top5": 100 * statistics.regret(score, accuracy, TOP)}
    best = best_plain(rows)
    for name, row in rows.items():
        gain = difference(scores[name], scores[best], truth, seed) if name not in PLAIN else {}
        row |= {"gain": gain.get("difference"), "gain_low": gain.get("low"), "gain_high": gain.get("high")}
    return rows


def best_plain(rows: Rows, names: Sequence[str] = PLAIN) -> str:
    """The plain count that correlates best; the first among equals."""
    return max(names, key=lambda name: number(rows[name]["spearman"]))


def beaten_by(scores: Mapping[str, Array], truth: Array, seed: int) -> list[str]:
    """The counts of `COUNTS` that correlate better than SWAP-Score beyond chance."""
    low = {name: difference(scores[name], scores["swap"], truth, seed)["low"] for name in COUNTS}
    return [name for name in COUNTS if number(low[name]) > 0]


def trusted(rows: Rows, beaten: Sequence[str]) -> bool:
    """Whether to trust SWAP-Score: its interval lies above 0, and no count beats it (`beaten_by`)."""
    return number(rows["swap"]["low"]) > 0 and not beaten


def choose(rows: Rows, usable: Sequence[str] = USABLE) -> str:
    """The name of the score to search by.

    The best of `usable` that is above 0 beyond chance and above the best plain count by more than `TOLERATED`; else
    that count, which is as good as anything. Where it is not above 0 itself beyond chance, nothing needs to beat it,
    and what is left without evidence is the calibrated ranking, which has some from other lines.
    """
    count = rows[best_plain(rows)]
    weak = not number(count["low"]) > 0
    better = [n for n in usable if number(rows[n]["low"]) > 0 and (weak or _clearly_above(rows[n]))]
    if better:
        return max(better, key=lambda name: number(rows[name]["spearman"]))
    return "calibrated" if weak else str(count["score"])


def _clearly_above(row: Mapping[str, Any]) -> bool:
    error = (row["gain_high"] - row["gain_low"]) / (2 * 1.96)
    return bool(row["gain"] > TOLERATED * error)


def shortlist_positions(score: Array, truth: Array, seed: int) -> NDArray[np.intp]:
    """Place, from 1, of the truly best network in the order of the score, in each of `DRAWS` bootstrap samples of n.

    A network that is drawn more than once stands for others like it, each in a place of its own; what scores the same
    as the best stands before it.
    """
    drawn = np.random.default_rng(seed).integers(len(truth), size=(DRAWS, len(truth)))
    best = np.take_along_axis(drawn, truth[drawn].argmax(1)[:, None], 1)
    places: NDArray[np.intp] = 1 + ((score[drawn] >= score[best]) & (drawn != best)).sum(1)
    return places


def shortlist_size(score: Array, truth: Array, seed: int) -> int:
    """The least k for which the truly best of the n networks is among the k of the highest score with 90 % probability.

    (n,) each; see `shortlist_positions`.
    """
    return int(np.quantile(shortlist_positions(score, truth, seed), SURE, method="inverted_cdf"))
