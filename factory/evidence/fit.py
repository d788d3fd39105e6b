"""A ranking fitted to trained networks: ridge regression on the logarithms of cheap features, a product of powers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from sklearn.linear_model import RidgeCV

from factory.score.ranking import Features, PowerLaw

Array = NDArray[np.float64]
PENALTIES: Final = np.logspace(-2, 3, 11)


@dataclass(frozen=True, slots=True)
class Trained:
    """Networks of one line: their features and how good each became, more is better."""

    features: tuple[Features, ...]
    truth: Array  # (n,)

    def without(self, index: int) -> "Trained":
        """All but one."""
        return Trained(self.features[:index] + self.features[index + 1 :], np.delete(self.truth, index))


def logs(features: Sequence[Features], names: Sequence[str]) -> Array:
    """Logarithms (n, len(names)) of the named features."""
    return np.log(np.array([[getattr(one, name) for name in names] for one in features], np.float64))


def normal_scores(truth: Array) -> Array:
    """Ranks as quantiles of a normal distribution: one failed training must not bend the fit. (n,)"""
    scores: Array = norm.ppf((rankdata(truth) - 0.5) / len(truth))
    return scores


def fit(lines: Sequence[Trained], names: Sequence[str], name: str) -> PowerLaw:
    """Fit one ranking to the order within each line; levels of lines are not compared.

    Args:
        lines: of three networks or more each.
        names: of the features to use.
        name: of the ranking.
    """
    x = np.concatenate([logs(line.features, names) - logs(line.features, names).mean(0) for line in lines])
    y = np.concatenate([normal_scores(line.truth) for line in lines])
    spread = x.std(0)
    spread[spread == 0] = np.inf  # a feature that never changes gets the exponent 0
    model = RidgeCV(PENALTIES, fit_intercept=False).fit(x / spread, y)
    return PowerLaw(tuple(zip(names, map(float, model.coef_ / spread), strict=True)), name)


def scores(ranking: PowerLaw, features: Sequence[Features]) -> Array:
    """The ranking's score of each network (n,)."""
    return np.array([ranking(one) for one in features])


def left_out(line: Trained, names: Sequence[str]) -> Array:
    """Score of each network (n,) by a ranking fitted to all others, in logarithms so that fits can be compared."""
    x = logs(line.features, names)
    found = np.empty(len(x))
    for index in range(len(x)):
        rest = line.without(index)
        exponents = np.array([exponent for _, exponent in fit([rest], names, "").exponents])
        found[index] = (x[index] - logs(rest.features, names).mean(0)) @ exponents
    return found
