"""A ranking refitted to one line's own networks, and what it is worth on networks that it has not seen."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from factory.evidence.fit import Trained, fit, left_out
from factory.evidence.statistics import spearman
from factory.score.ranking import PowerLaw

Array = NDArray[np.float64]

# Features that a refit may use together: few, since an audit has few networks to fit them to.
SETS: Final[tuple[tuple[str, ...], ...]] = (
    ("macs",),
    ("params",),
    ("positions",),
    ("params", "macs"),
    ("macs", "narrowest"),
    ("macs", "width"),
    ("positions", "convolutions"),
    ("macs", "positions", "convolutions"),
)
# The power of a network's width that a feature grows with.
GROWTH: Final = {"params": 2, "macs": 2, "late_macs": 2, "positions": 1, "narrowest": 1, "convolutions": 0, "width": 1}


def best_set(line: Trained) -> tuple[str, ...]:
    """Return the set of `SETS` whose rankings best order the networks that are left out of their fits.

    Needs four networks or more. Among equals the first is taken, which is the smaller one.
    """
    found = [spearman(left_out(line, names), line.truth) for names in SETS]
    return SETS[int(np.argmax(np.nan_to_num(found, nan=-np.inf)))]


def refit(line: Trained) -> PowerLaw:
    """Fit to all networks, four or more, with the best set of features."""
    return fit([line], best_set(line), "refitted")


def grows(exponents: Mapping[str, float]) -> bool:
    """Whether, by such a product of powers, a wider network of the same shape ranks higher.

    Where it does not, as after trainings too short for any but small networks, a search would go on to the smallest
    there are, far from those that the ranking was fitted to.
    """
    return sum(GROWTH[name] * exponent for name, exponent in exponents.items()) > 0


def nested(line: Trained) -> Array:
    """Log-score of each network (n,) by a ranking that is refitted to all others, its set of features chosen by them.

    n is five or more. The choice lies inside the loop, since a set chosen with a network's help flatters it.
    """
    alone = {names: left_out(line, names) for names in SETS}
    return np.array([alone[best_set(line.without(index))][index] for index in range(len(line.truth))])
