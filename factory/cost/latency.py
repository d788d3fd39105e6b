"""Latency of any network of a space from a few that were measured, with an interval.

The law is a sum: every term (an operation's work, a call, a value moved) costs so many milliseconds, never fewer than
none. That holds on every device, so it needs little to be fitted, stays true outside of what was measured, and never
calls a larger network faster. The interval is conformal, so its level does not rest on the law being right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold, cross_val_predict

from factory.cost.features import features
from factory.spaces.plan import Plan

Floats = NDArray[np.float64]

LEVEL: Final = 0.95  # one-sided: of networks like the measured ones, the share below the upper bound
LEAST_MS: Final = 1e-6
FEWEST: Final = 2
MOST_LEVERAGE: Final = 1 - 1e-9
FOLDS: Final = 40  # up to so many networks, each is left out alone


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected median latency in ms, and its one-sided lower and upper bounds at `LEVEL`."""

    ms: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Law:
    """Latency as a non-negative combination of some of the terms it is given.

    Attributes:
        columns: indices of the terms that the law reads.
        weights: ms a unit of each of them.
        units: size of each column among the measured networks, as a multiple of their latency.
        spread: inverse of I + Z'Z, Z the measured networks' terms as shares of latency, in `units`.
        low: `1 - LEVEL` quantile of the logarithm of measured over predicted, at leverage 0.
        high: the `LEVEL` quantile.
        median_error: median of |predicted / measured - 1| of networks left out of the fit.
        mean_error: mean of |log(predicted / measured)| of them, by which laws are chosen.
    """

    columns: tuple[int, ...]
    weights: tuple[float, ...]
    units: tuple[float, ...]
    spread: tuple[tuple[float, ...], ...]
    low: float
    high: float
    median_error: float
    mean_error: float

    def predict(self, terms: Floats) -> Floats:
        """Expected latency in ms, float64 (N,), of networks with the terms float64 (N, T)."""
        ms: Floats = np.maximum(terms[:, self.columns] @ np.array(self.weights), LEAST_MS)
        return ms

    def bounds(self, terms: Floats) -> tuple[Floats, Floats, Floats]:
        """Expected latency and its bounds at `LEVEL`, each in ms and float64 (N,), from terms float64 (N, T)."""
        ms = self.predict(terms)
        shares = terms[:, self.columns] / ms[:, None] / np.array(self.units)
        wide = np.sqrt(1 + np.einsum("nt,tu,nu->n", shares, np.array(self.spread), shares))
        return ms, ms * np.exp(self.low * wide), ms * np.exp(self.high * wide)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Law":
        """Read what `dataclasses.asdict` wrote."""
        spread = tuple(tuple(row) for row in document["spread"])
        lists = {name: tuple(document[name]) for name in ("columns", "weights", "units")}
        return cls(**(document | lists | {"spread": spread}))


def _quantiles(scores: Floats) -> tuple[float, float]:
    """Outer `LEVEL` quantiles with the finite-sample correction; the extremes where there are too few scores."""
    rank = min(math.ceil(LEVEL * (len(scores) + 1)), len(scores))
    ordered = np.sort(scores)
    return min(0.0, float(ordered[len(scores) - rank])), max(0.0, float(ordered[rank - 1]))


def fit_law(terms: Floats, measured_ms: Floats, columns: Sequence[int] | None = None) -> Law:
    """Fit by non-negative least squares on relative errors; the bounds by cross-validated conformal prediction.

    Residuals are logarithms of measured over predicted, each divided by sqrt(1 + leverage), so that networks unlike the
    measured ones get wider intervals (locally weighted conformal prediction: Lei et al., "Distribution-free predictive
    inference for regression", JASA 2018, section 5.2; residuals of a model that did not see the network: Barber et
    al., "Predictive inference with the jackknife+", Annals of Statistics 2021). Below 19 networks the bounds are at
    the largest residual, whose level is less than `LEVEL`.

    Args:
        terms: float64 (N, T), none negative.
        measured_ms: float64 (N,), above 0.
        columns: which of the T terms to use; all if None.

    Raises:
        ValueError: if fewer than `FEWEST` networks were measured.
    """
    if len(measured_ms) < FEWEST:
        raise ValueError(f"a law of latency needs {FEWEST} or more measured networks, found {len(measured_ms)}")
    used = tuple(range(terms.shape[1]) if columns is None else columns)
    relative = terms[:, used] / measured_ms[:, None]
    units = np.sqrt((relative**2).mean(0))
    units[units == 0] = 1.0
    scaled, ones = relative / units, np.ones(len(measured_ms))
    regression = LinearRegression(positive=True, fit_intercept=False)
    left_out = np.maximum(cross_val_predict(regression, scaled, ones, cv=KFold(min(FOLDS, len(ones)))), LEAST_MS)
    weights = regression.fit(scaled, ones).coef_ / units
    shares = scaled * (measured_ms / np.maximum(terms[:, used] @ weights, LEAST_MS))[:, None]
    spread = np.linalg.inv(np.eye(len(used)) + shares.T @ shares)
    leverage = np.minimum(np.einsum("nt,tu,nu->n", shares, spread, shares), MOST_LEVERAGE)
    low, high = _quantiles(-np.log(left_out) * np.sqrt(1 - leverage))  # that of a network left out is h / (1 - h)
    return Law(
        used,
        tuple(map(float, weights)),
        tuple(map(float, units)),
        tuple(tuple(map(float, row)) for row in spread),
        low,
        high,
        float(np.median(np.abs(left_out - 1))),
        float(np.mean(np.abs(np.log(left_out)))),
    )


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """The law of one device over `features`, and over what the laws of other devices, its teachers, say."""

    law: Law
    teachers: tuple[Law, ...] = ()

    def estimate(self, plan: Plan) -> Estimate:
        """Expected median latency and its bounds."""
        ms, low, high = self.law.bounds(terms_of([plan], self.teachers))
        return Estimate(float(ms[0]), float(low[0]), float(high[0]))

    def predict(self, plan: Plan) -> float:
        """Expected median latency in ms."""
        return self.estimate(plan).ms

    def upper(self, plan: Plan) -> float:
        """Latency in ms that 95 networks of 100 stay below: what is held against the budget."""
        return self.estimate(plan).high


def terms_of(plans: Sequence[Plan], teachers: Sequence[Law] = ()) -> Floats:
    """What a device's law reads: float64 (N, F + D), the features and then one column for each of D teachers, in ms."""
    own = np.stack([features(plan) for plan in plans])
    return np.column_stack([own, *(teacher.predict(own) for teacher in teachers)])
