"""From scores and trained results to the rows that are shown: pure functions of arrays, one entry a network."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from factory.evidence import statistics

Array = NDArray[np.float64]

FEWEST: Final = 3  # networks, below which there is no order to speak of
DRAWS: Final = 1000  # of a bootstrap
TOP_SHARE: Final = 0.1
TOP: Final = 10
GROUP: Final = 20  # networks of one size that make a group
BINS: Final = 10
IN_BIN: Final = 5  # networks that a bin needs


def compare(scores: Mapping[str, Array], truth: Array, sizes: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """Compare every score with the truth, best Spearman first; values are JSON, None where there is none.

    Args:
        scores: (n,) by name; nan where a network has none, which leaves it out for that score alone.
        truth: (n,), finite, more is better.
        sizes: parameters (n,), for the correlation among networks of one size.
        seed: of the bootstraps.

    Returns:
        "rows": a dict a score: score, n, spearman, its 95 % interval low to high, kendall, top_recall (which part of
        the truly best tenth is in the score's own), best_of_top10, within_size and groups (mean Spearman within groups
        of one size, and how many). "size_groups": what those are. "against_params": for swap and regularised, the
        difference of their Spearman from that of params, with its 95 % interval by paired bootstrap.
    """
    keys, fewest, kind = size_groups(sizes)
    rows = [_row(name, values, truth, keys, fewest, seed) for name, values in scores.items()]
    rows.sort(key=lambda row: math.inf if row["spearman"] is None else -row["spearman"])
    ours = [name for name in ("swap", "regularised") if name in scores and "params" in scores]
    against = {name: difference(scores[name], scores["params"], truth, seed) for name in ours}
    return {"rows": rows, "size_groups": kind, "against_params": against}


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value


def _row(name: str, values: Array, truth: Array, keys: NDArray[Any], fewest: int, seed: int) -> dict[str, Any]:
    known = np.isfinite(values)
    number = int(known.sum())
    row: dict[str, Any] = {"score": name, "n": number}
    if number < FEWEST:
        return row | dict.fromkeys(
            ("spearman", "low", "high", "kendall", "top_recall", "best_of_top10", "within_size", "groups")
        )
    score, own = values[known], truth[known]
    low, high = statistics.bootstrap(score, own, statistics.spearman, DRAWS, seed)
    within, groups = statistics.within_groups(score, own, keys[known], fewest)
    return row | {
        "spearman": _json(statistics.spearman(score, own)),
        "low": _json(low),
        "high": _json(high),
        "kendall": _json(statistics.kendall(score, own)),
        "top_recall": statistics.top_recall(score, own, TOP_SHARE),
        "best_of_top10": statistics.best_of_top(score, own, min(TOP, number)),
        "within_size": _json(within),
        "groups": groups,
    }


def size_groups(sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], int, str]:
    """Group networks by size: of equal parameters where some group has 20 or more, else in ten bins by quantiles.

    Returns:
        A key for each network (n,), how many a group must have to count, and what the groups are, in words.
    """
    if np.unique(sizes, return_counts=True)[1].max() >= GROUP:
        return sizes, GROUP, f"equal parameters, {GROUP} networks or more"
    edges = np.quantile(sizes, np.arange(1, BINS) / BINS)
    return np.searchsorted(edges, sizes).astype(np.int64), IN_BIN, f"{BINS} bins by quantiles of the parameters"


def difference(score: Array, other: Array, truth: Array, seed: int) -> dict[str, float | None]:
    """How much higher one score's Spearman is than another's on the networks that have both, with a paired interval."""
    known = np.isfinite(score) & np.isfinite(other)
    if known.sum() < FEWEST:
        return dict.fromkeys(("difference", "low", "high"))
    rows = np.arange(known.sum(), dtype=np.float64)
    gain = partial(_gain, score[known], other[known], truth[known])
    low, high = statistics.bootstrap(rows, rows, gain, DRAWS, seed)
    return {"difference": _json(gain(rows, rows)), "low": _json(low), "high": _json(high)}


def _gain(score: Array, other: Array, truth: Array, rows: ArrayLike, _rows: ArrayLike) -> float:
    """Difference of the Spearman correlations over `rows`, whose numbers may repeat."""
    drawn = np.asarray(rows, np.int64)
    return statistics.spearman(score[drawn], truth[drawn]) - statistics.spearman(other[drawn], truth[drawn])


def verdict(document: Mapping[str, Any]) -> str:
    """One sentence of `compare`'s answer: what ranks best, and whether SWAP beats counting parameters."""
    best = document["rows"][0]
    if best["spearman"] is None:
        return "No score ranks these networks: each is constant, or has no value."
    first = f"{best['score']} ranks best ({best['spearman']:.2f})"
    gain = document["against_params"].get("swap")
    if gain is None or gain["difference"] is None or gain["low"] is None:
        return f"{first}."
    interval = f"{gain['difference']:+.2f}, 95 % interval {gain['low']:+.2f} to {gain['high']:+.2f}"
    if gain["low"] > 0:
        return f"{first}; SWAP beats parameters beyond chance ({interval})."
    if gain["high"] < 0:
        return f"{first}; parameters beat SWAP beyond chance ({interval})."
    return f"{first}; SWAP and parameters cannot be told apart ({interval})."
