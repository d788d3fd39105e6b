"""When the order of networks settles along their trainings. Pure functions of validation losses at the evaluations.

An epoch is one of these trainings, whose learning rate falls to zero at their end: a training of so many epochs alone
would have ended there, and may order better.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from factory.evidence.statistics import spearman

Array = NDArray[np.float64]

SETTLED: Final = 0.9


def order_curve(losses: Array) -> list[float]:
    """Spearman of the losses at each evaluation with those at the last, nan where all are equal.

    Args:
        losses: (n, evaluations), finite.
    """
    return [spearman(column, losses[:, -1]) for column in losses.T]


def settles_at(curve: list[float], epochs: list[int]) -> int | None:
    """First of `epochs` from which the curve stays at `SETTLED` or above: at the latest the last; None without one.

    Args:
        curve: of `order_curve`.
        epochs: the epoch of each evaluation, rising.
    """
    unsettled = [index for index, value in enumerate(curve) if not value >= SETTLED]
    first = unsettled[-1] + 1 if unsettled else 0
    return epochs[first] if first < len(epochs) else None


def extrapolation(losses: Array, epochs: list[int]) -> dict[str, Any] | None:
    """How the order at the end is foretold from the first half, as it stands there and by a power law of the epoch.

    The law a * epoch ** b is fitted to each network's losses in logarithms.

    Args:
        losses: (n, evaluations), above 0.
        epochs: the epoch of each evaluation, rising.

    Returns:
        from_epoch, the last one looked at; last_value and power_law, the Spearman of both with the end (None where all
        are equal); saves_time: whether the law settles the order and the last value does not. None with fewer than two
        evaluations in the first half.
    """
    known = [index for index, epoch in enumerate(epochs) if 2 * epoch <= epochs[-1]]
    if len(known) < 2:
        return None
    times = np.log(np.array(epochs, np.float64))
    slope, level = np.polyfit(times[known], np.log(losses[:, known]).T, 1)
    last = spearman(losses[:, known[-1]], losses[:, -1])
    law = spearman(slope * times[-1] + level, losses[:, -1])
    return {
        "from_epoch": epochs[known[-1]],
        "last_value": None if math.isnan(last) else last,
        "power_law": None if math.isnan(law) else law,
        "saves_time": law >= SETTLED and not last >= SETTLED,
    }
