"""How well a score orders networks whose truth is known. Pure functions of arrays, one entry a network; more is better.

Everywhere but in `within_groups`, `score` and `truth` are finite numbers (n,), n of 1 or more; anything else raises
ValueError. Correlations take average ranks for ties, and are nan where either array is constant. Among networks of
one score, the top of a ranking takes those of the lower truth first: ties never flatter a score.
"""

import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau, rankdata

Array: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[ArrayLike, ArrayLike], float]

BLOCK: Final = 2**21  # numbers that a bootstrap holds at a time


def _checked(score: ArrayLike, truth: ArrayLike) -> tuple[Array, Array]:
    pair = np.asarray(score, np.float64), np.asarray(truth, np.float64)
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape or not len(pair[0]):
        raise ValueError(f"expected a score and a truth of each network, found shapes {pair[0].shape}, {pair[1].shape}")
    if not all(np.isfinite(values).all() for values in pair):
        raise ValueError("scores and truths must be finite: leave the other networks out, and say so")
    return pair


def _spearman_rows(score: Array, truth: Array) -> Array:
    """Spearman of each pair of rows (D, n): the Pearson correlation of average ranks. (D,)."""
    a, b = (rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (score, truth))
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    out: Array = np.full(len(scale), np.nan)
    np.divide((a * b).sum(1), scale, out=out, where=scale > 0)
    return out


def spearman(score: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's rank correlation, -1 to 1."""
    a, b = _checked(score, truth)
    return float(_spearman_rows(a[None], b[None])[0])


def kendall(score: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's tau-b, -1 to 1."""
    a, b = _checked(score, truth)
    if (a == a[0]).all() or (b == b[0]).all():
        return math.nan
    return float(kendalltau(a, b).statistic)


def _top(score: Array, truth: Array, k: int) -> NDArray[np.intp]:
    if not 1 <= k <= len(score):
        raise ValueError(f"k must be 1 to {len(score)}, the number of networks, found {k}")
    return np.lexsort((truth, -score))[:k]


def best_of_top(score: ArrayLike, truth: ArrayLike, k: int) -> float:
    """The best truth among the k networks of the highest score.

    Raises:
        ValueError: also if k is not 1 to n.
    """
    a, b = _checked(score, truth)
    return float(b[_top(a, b, k)].max())


def regret(score: ArrayLike, truth: ArrayLike, k: int) -> float:
    """What the k networks of the highest score miss: the best truth of all minus the best among them, 0 or more.

    Raises:
        ValueError: as of `best_of_top`.
    """
    _, b = _checked(score, truth)
    return float(b.max()) - best_of_top(score, truth, k)


def top_recall(score: ArrayLike, truth: ArrayLike, share: float) -> float:
    """Which part of the truly best networks are among as many of the highest score, 0 to 1.

    As many are round(share * n), at least 1. A network as good as the last of the truly best is one of them.

    Raises:
        ValueError: also if share is not above 0 and at most 1.
    """
    a, b = _checked(score, truth)
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, found {share}")
    number = max(1, round(share * len(a)))
    return float(np.mean(b[_top(a, b, number)] >= np.sort(b)[-number]))


def bootstrap(score: ArrayLike, truth: ArrayLike, statistic: Statistic, draws: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of a statistic, networks being drawn again with replacement.

    Args:
        score: (n,).
        truth: (n,).
        statistic: such as `spearman`, for which all draws of a block are computed at once.
        draws: number of samples of n networks. Those in which the statistic is nan are left out.
        seed: of the draws.

    Returns:
        The 2.5 % and the 97.5 % point of the draws, interpolated; nan where no draw has a value.

    Raises:
        ValueError: also if draws is below 1.
    """
    a, b = _checked(score, truth)
    if draws < 1:
        raise ValueError(f"draws must be 1 or more, found {draws}")
    rng = np.random.default_rng(seed)
    values: list[float] = []
    while len(values) < draws:
        rows = min(draws - len(values), -(-BLOCK // len(a)))
        drawn = rng.integers(len(a), size=(rows, len(a)))
        if statistic is spearman:
            values += _spearman_rows(a[drawn], b[drawn]).tolist()
        else:
            values += [statistic(a[row], b[row]) for row in drawn]
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan, math.nan
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)


def within_groups(score: ArrayLike, truth: ArrayLike, groups: NDArray[Any], minimum: int) -> tuple[float, int]:
    """Mean Spearman correlation within groups of networks with equal keys, and the number of groups in the mean.

    Args:
        score: (n,).
        truth: (n,).
        groups: keys (n,) of any type that sorts, such as parameter counts.
        minimum: members that a group must have. Groups of constant score or truth are left out as well.

    Returns:
        nan and 0 where no group is left.

    Raises:
        ValueError: also if the number of keys differs.
    """
    a, b = _checked(score, truth)
    keys = np.asarray(groups)
    if keys.shape != a.shape:
        raise ValueError(f"expected {len(a)} keys, one of each network, found shape {keys.shape}")
    _, group, members = np.unique(keys, return_inverse=True, return_counts=True)
    found = [spearman(a[group == index], b[group == index]) for index in np.flatnonzero(members >= minimum)]
    known = [value for value in found if not math.isnan(value)]
    return (math.fsum(known) / len(known), len(known)) if known else (math.nan, 0)
