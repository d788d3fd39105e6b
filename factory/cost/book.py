"""Latencies measured on a device, written down once.

The book of measurements is an input of the search like the images are: with the same book a search is the same.
"""

import platform
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from export.build.measure import measure
from export.build.onnx import INPUT, OUTPUT
from export.runtime.engines import OnnxRunner
from export.runtime.errors import EnvironmentLacks
from factory.cost.probe import probe
from factory.profiles import DeviceProfile
from factory.spaces.plan import Plan
from factory.workspace import digest, read_json, sha256, write_json

ROUNDS: Final = 3
SECONDS: Final = 0.05


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
        "device": device.model_dump(mode="json", exclude={"description", "taught_by"}),
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
