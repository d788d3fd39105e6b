"""Latency of any candidate, interpolated from what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_predict

from factory.spaces.plan import Op, Plan, graph

LANES: Final = 16  # float32 lanes of the widest vector unit: convolutions are padded to them
CROSS_VALIDATION: Final = 8


def _padded(channels: int) -> int:
    return -(-channels // LANES) * LANES


def _conv_features(op: Op) -> NDArray[np.float64]:
    """Padded MACs by kind of convolution: 1x1, larger, depthwise, and those that read the image."""
    features = np.zeros(4)
    conv = op.conv
    assert conv is not None
    pixels, area = op.height * op.width, conv.kernel**2
    if conv.groups > 1:
        features[2] = pixels * area * _padded(conv.channels_out)
    elif conv.channels_in < 8:
        features[3] = pixels * area * conv.channels_in * _padded(conv.channels_out)
    else:
        features[0 if area == 1 else 1] = pixels * area * _padded(conv.channels_in) * _padded(conv.channels_out)
    return features


def features(plan: Plan) -> NDArray[np.float64]:
    """What latency is linear in: nodes, padded MACs of each kind, activation values, weights, pixels of the input."""
    ops = graph(plan)
    convs = [op for op in ops if op.conv is not None]
    macs = np.sum([_conv_features(op) for op in convs], axis=0)
    values = sum(op.height * op.width * _padded(op.channels) for op in convs)
    adds = sum(op.height * op.width * _padded(op.channels) for op in ops if op.kind == "add")
    weights = sum(_padded(o.conv.channels_in // o.conv.groups) * o.channels * o.conv.kernel**2 for o in convs if o.conv)
    return np.array([len(convs), *macs / 1e6, values / 1e6, adds / 1e6, weights / 1e6, 1.0])


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Latency as a non-negative combination of `features`; `margin` covers 90 % of cross-validated errors."""

    weights: tuple[float, ...]
    margin: float
    median_error: float

    def predict(self, plan: Plan) -> float:
        """Expected median latency in ms."""
        return float(features(plan) @ np.array(self.weights))

    def upper(self, plan: Plan) -> float:
        """Latency in ms that nine networks of ten stay below: what is held against the budget."""
        return self.predict(plan) * (1 + self.margin)


def fit_latency(plans: Sequence[Plan], measured_ms: Sequence[float]) -> LatencyModel:
    """Fit by non-negative least squares on relative errors."""
    x = np.stack([features(plan) for plan in plans])
    y = np.array(measured_ms)
    relative = LinearRegression(positive=True, fit_intercept=False)
    scaled, ones = x / y[:, None], np.ones(len(y))
    guesses = cross_val_predict(relative, scaled, ones, cv=min(CROSS_VALIDATION, len(y)))
    errors = 1 / np.maximum(guesses, 1e-6) - 1  # how far the measured value lies above the predicted one
    margin = max(0.0, float(np.quantile(errors, 0.9)))
    relative.fit(scaled, ones)
    return LatencyModel(tuple(map(float, relative.coef_)), margin, float(np.median(np.abs(guesses - 1))))
