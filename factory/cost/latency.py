"""Latency of a candidate: measured on this machine, written down once, and interpolated for the many.

The book of measurements is an input of the search like the images are: with the same book a search is the same.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_predict

from export.build.measure import measure
from export.build.onnx import INPUT, OUTPUT
from export.runtime.engines import OnnxRunner
from export.runtime.errors import EnvironmentLacks
from factory.cost.probe import probe
from factory.profiles import DeviceProfile
from factory.spaces.plan import Op, Plan, graph
from factory.workspace import digest, read_json, sha256, write_json

ROUNDS: Final = 3
SECONDS: Final = 0.05
LANES: Final = 16  # float32 lanes of the widest vector unit: convolutions are padded to them
CROSS_VALIDATION: Final = 8


def fingerprint(device: DeviceProfile) -> dict[str, Any]:
    """What the latency of a network depends on beside the network.

    Raises:
        EnvironmentLacks: if the device's runtime is not on this machine.
    """
    if not device.runtime.startswith("onnxruntime"):
        raise EnvironmentLacks(
            f"latency on device {device.name!r} cannot be measured on this machine",
            expected=f"a station with {device.runtime}, or measurements made there",
            found="no such runtime here",
            fix="set budget.device to a device of this machine, such as cpu-x86",
        )
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise EnvironmentLacks("onnxruntime is not installed", fix="install the extra 'cpu' or 'gpu'") from None
    return {
        "device": device.model_dump(mode="json", exclude={"description"}),
        "processor": _processor(),
        "onnxruntime": onnxruntime.__version__,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def open_runner(model: bytes, plan: Plan, device: DeviceProfile) -> OnnxRunner:
    """Open a graph as the station would on `device`."""
    picture = plan.input
    return OnnxRunner(
        model,
        runtime=device.runtime,
        threads=device.threads,
        input_name=INPUT,
        output_name=OUTPUT,
        frame_shape=(picture.height, picture.width, picture.channels),
        classes=plan.classes,
    )


class LatencyBook:
    """Medians in ms of every graph ever timed on one device, in `<runs>/devices/<device>-<hash>.json`."""

    def __init__(self, runs: Path, device: DeviceProfile) -> None:
        self.device = device
        self.fingerprint = fingerprint(device)
        self._path = runs / "devices" / f"{device.name}-{digest(self.fingerprint)[:12]}.json"

    def measure(self, plans: Sequence[Plan], tick: Callable[[], None]) -> list[float]:
        """Return the median latency in ms of every plan, timing those that the book lacks; a tick a plan."""
        entries: dict[str, float] = read_json(self._path)["p50_ms"] if self._path.exists() else {}
        models = [probe(plan) for plan in plans]
        keys = [sha256(model) for model in models]
        missing = [i for i, key in enumerate(keys) if key not in entries]
        for _ in range(len(plans) - len(missing)):
            tick()
        if missing:
            runners = [partial(open_runner, models[i], plans[i], self.device) for i in missing]
            shape = plans[0].input
            frame = np.random.default_rng(0).integers(0, 256, (1, shape.height, shape.width, shape.channels), np.uint8)
            turns = iter(range(ROUNDS * len(missing)))
            timed = measure(
                runners,
                frame,
                rounds=ROUNDS,
                seconds=SECONDS,
                tick=lambda: tick() if next(turns) % ROUNDS == 0 else None,
            )
            entries |= {keys[i]: round(latency.p50, 5) for i, latency in zip(missing, timed, strict=True)}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, {"fingerprint": self.fingerprint, "p50_ms": entries})
        return [entries[key] for key in keys]


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
