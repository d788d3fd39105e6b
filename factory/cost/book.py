"""Latencies measured on a device, written down once.

The book of measurements is an input of the search like the images are: with the same book a search is the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from export.build.onnx import INPUT, OUTPUT
from export.runtime.contract import Contract
from export.runtime.engines import OnnxRunner
from export.runtime.fingerprint import fingerprint
from export.runtime.kit import Frame
from export.runtime.timing import Effort, Summary, Variant, measure, random_frames, time_variants
from factory.cost.away import load_measured, unmeasured, want
from factory.cost.probe import probe
from factory.profiles import DeviceProfile
from factory.spaces.plan import Plan
from factory.workspace import digest, read_json, sha256, write_json

ROUNDS: Final = 3
SECONDS: Final = 0.05
CONFIRMED: Final = Effort(rounds=5, seconds=0.2, runs=10, warm_up_s=0.1)


def is_away(device: DeviceProfile) -> bool:
    """Whether a device's latencies come from its station: its profile says so, or its runtime cannot run here."""
    return away_because(device) is not None


def runs_here(device: DeviceProfile) -> bool:
    """Whether this machine has the runtime of a device, if it is one that runs the ONNX file itself."""
    return _foreign_because(device) is None


def away_because(device: DeviceProfile) -> str | None:
    """Why a device's latencies come from its station; None where they are measured here."""
    return 'its profile says measured = "station"' if device.measured == "station" else _foreign_because(device)


def _foreign_because(device: DeviceProfile) -> str | None:
    if not device.runtime.startswith("onnxruntime"):
        return f"{device.runtime} builds and runs its engines there"
    if device.runtime == "onnxruntime-cpu":
        return None
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return "ONNX Runtime is not installed here"
    providers = onnxruntime.get_available_providers()
    return None if "CUDAExecutionProvider" in providers else f"ONNX Runtime here has only {', '.join(providers)}"


def frame_of(plan: Plan) -> Frame:
    """What a network of that plan takes and tells apart."""
    picture = plan.input
    return Frame(height=picture.height, width=picture.width, channels=picture.channels, classes=plan.classes)


def open_runner(model: bytes, plan: Plan, device: DeviceProfile) -> OnnxRunner:
    """Open a graph as the station would on `device`."""
    return open_model(model, device, INPUT, OUTPUT, frame_of(plan))


def open_model(model: bytes, device: DeviceProfile, input_name: str, output_name: str, frame: Frame) -> OnnxRunner:
    """Open an ONNX file as the station would on `device`."""
    shape = (frame.height, frame.width, frame.channels)
    contract = Contract(input_name=input_name, output_name=output_name, frame_shape=shape, classes=frame.classes)
    return OnnxRunner(model, contract, runtime=device.runtime, threads=device.threads)


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A median in ms, and what it is at most: twice the spread of its turns more."""

    ms: float
    high_ms: float


def confirmed(summary: Summary) -> Confirmed:
    """The median of a summary, and its upper end."""
    return Confirmed(summary.p50_ms, summary.p50_ms * (1 + 2 * summary.cv_turns))


class LatencyBook:
    """Latencies of every graph ever timed on one device.

    Of a device that is this machine: medians in ms, in `<runs>/devices/<device>-<hash>.json`, timed where they lack.
    Of another: what its station measured (`factory.cost.away`). `fingerprint` is what they depend on beside the graph.

    Raises:
        EnvironmentLacks: if the device is this machine, but its runtime is not installed.
        UsageError: if the measurements of another cannot be used.
    """

    def __init__(self, runs: Path, device: DeviceProfile) -> None:
        self.device, self.away, self._runs = device, is_away(device), runs
        profile = device.model_dump(mode="json", include={"name", "runtime", "threads"})
        if self.away:
            self._measured = load_measured(device)
            machine = None if self._measured is None else self._measured.identity
        else:
            machine = fingerprint(device.runtime).identity
        self.fingerprint: dict[str, Any] = {"device": profile, "machine": machine}
        self._path = runs / "devices" / f"{device.name}-{digest(self.fingerprint)[:12]}.json"

    def measure(self, plans: Sequence[Plan], tick: Callable[[], None]) -> list[float]:
        """Return the median latency in ms of every plan, timing those that the book lacks; a tick a plan.

        Raises:
            Unmeasured: if the device is away and its station did not measure all of them; they are remembered.
        """
        models = [probe(plan) for plan in plans]
        if self.away:
            carried = self.carried(models, [frame_of(plan) for plan in plans])
            for _ in plans:
                tick()
            return [summary.p50_ms for summary in carried]
        known = self._known()
        entries: dict[str, float] = known["p50_ms"]
        keys = [sha256(model) for model in models]
        missing = [i for i, key in enumerate(keys) if key not in entries]
        for _ in range(len(plans) - len(missing)):
            tick()
        if missing:
            timed = self._time([models[i] for i in missing], [plans[i] for i in missing], tick)
            entries.update({keys[i]: ms for i, ms in zip(missing, timed, strict=True)})
            self._write(known, len(missing))
        return [entries[key] for key in keys]

    def confirm(self, plans: Sequence[Plan]) -> list[Confirmed]:
        """Time plans as thoroughly as a station does, those that the book lacks: what is trained must not miss later.

        Raises:
            Unmeasured: as `measure` does.
        """
        models = [probe(plan) for plan in plans]
        if self.away:
            return [confirmed(summary) for summary in self.carried(models, [frame_of(plan) for plan in plans])]
        known = self._known()
        entries: dict[str, list[float]] = known["confirmed_ms"]
        keys = [sha256(model) for model in models]
        missing = [i for i, key in enumerate(keys) if key not in entries]
        if missing:
            shape = plans[0].input
            frames = random_frames((shape.height, shape.width, shape.channels))
            variants = [Variant(partial(open_runner, models[i], plans[i], self.device), frames) for i in missing]
            for i, latency in zip(missing, time_variants(variants, CONFIRMED), strict=True):
                told = confirmed(latency.summary)
                entries[keys[i]] = [round(told.ms, 5), round(told.high_ms, 5)]
            self._write(known, len(missing))
        return [Confirmed(*entries[key]) for key in keys]

    def carried(self, models: Sequence[bytes], frames: Sequence[Frame]) -> list[Summary]:
        """What the station of an away device measured of ONNX files, each with what it takes.

        Raises:
            Unmeasured: if it did not measure all of them; they are remembered, for `factory measure DEVICE --kit`.
        """
        known = {} if self._measured is None else self._measured.networks
        keys = [sha256(model) for model in models]
        lacking = [i for i, key in enumerate(keys) if key not in known]
        for frame in {frames[i] for i in lacking}:
            want(self._runs, self.device.name, frame, [models[i] for i in lacking if frames[i] == frame])
        if lacking:
            raise unmeasured(self._runs, self.device.name, len(lacking), len(keys), str(away_because(self.device)))
        return [known[key].latency for key in keys]

    def _time(self, models: Sequence[bytes], plans: Sequence[Plan], tick: Callable[[], None]) -> list[float]:
        runners = [partial(open_runner, model, plan, self.device) for model, plan in zip(models, plans, strict=True)]
        shape = plans[0].input
        turns = iter(range(ROUNDS * len(models)))
        timed = measure(
            runners,
            random_frames((shape.height, shape.width, shape.channels)),
            rounds=ROUNDS,
            seconds=SECONDS,
            tick=lambda: tick() if next(turns) % ROUNDS == 0 else None,
        )
        return [round(latency.p50, 5) for latency in timed]

    def _known(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"p50_ms": {}, "confirmed_ms": {}, "occasions": []}
        return empty | read_json(self._path) if self._path.exists() else empty

    def _write(self, known: dict[str, Any], fresh: int) -> None:
        occasion = {"networks": fresh, **fingerprint(self.device.runtime).circumstances}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        occasions = [*known["occasions"], occasion]
        write_json(self._path, {**known, "fingerprint": self.fingerprint, "occasions": occasions})


def figures(summary: Summary, samples_ms: Sequence[float] = ()) -> dict[str, Any]:
    """What is written of one network that is delivered; a station carries no samples home."""
    return {**asdict(summary), "samples_ms": [round(ms, 4) for ms in samples_ms]}
