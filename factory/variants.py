"""The delivered network in every precision of its devices: converted, calibrated, judged against float32, chosen from.

A variant is a network of its own: it gets its own operating threshold by the rule that every network's follows, on the
same validation images. The threshold of the float32 network lets exactly as many defects pass as the rule allows; at
that very number the last bit of a score decides over one more, so that a harmless variant would be refused as often as
not, and the luckiest of several calibrations taken. At its own, a variant keeps the escape limit as the float32 network
does, and what it costs shows in good parts rejected and decisions changed, which the gate bounds.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from export.build import gate
from export.build.precision import Precision, to_fp16
from export.build.quantise import CALIBRATIONS, calibrate, quantise
from export.runtime.timing import Summary
from factory.data.dataset import Dataset, Part
from factory.profiles import DeviceProfile, LineProfile
from factory.training.acceptance import DEFAULT_ESCAPE, threshold_for
from factory.training.metrics import allowed_escapes

CALIBRATION_IMAGES: Final = 256
CHANGED_MAX: Final = 0.05  # share of all decisions, held as a limit on escapes is: shown with 95 % confidence
OVERKILL_MORE: Final = 0.02  # share of the good parts
BALANCED_ACCURACY_LESS: Final = 0.01
LOSS_MORE: Final = 0.02  # nats

Place = Literal["any", "cpu", "cuda", "tensorrt"]  # where a variant computes: what it is made for and judged by
PLACES: Final[Mapping[str, Place]] = {
    "onnxruntime-cpu": "cpu",
    "onnxruntime-cuda": "cuda",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt",
}
Infer = Callable[[bytes, Place], NDArray[np.float32]]  # logits (N, K) of a model on the validation images


@dataclass(frozen=True)
class Variant:
    """A network in one precision, judged on the validation images; `reasons` are those against it."""

    precision: Precision
    place: Place
    calibration: str | None
    model: bytes
    threshold: float | None
    exchange: gate.Exchange
    reasons: tuple[str, ...]

    @property
    def name(self) -> str:
        """File of the model; the float32 one is the same everywhere."""
        return "model.onnx" if self.precision == "fp32" else f"model.{self.precision}-{self.place}.onnx"

    @property
    def rank(self) -> tuple[bool, int, float]:
        """Smaller is better: passed, fewest decisions changed, lowest loss."""
        return bool(self.reasons), self.exchange.parity.decisions_changed, self.exchange.loss

    def as_json(self, tried: Sequence["Variant"]) -> dict[str, Any]:
        """A row of the table, with what other calibrations gave; `path` is None for one that is not kept."""
        return {
            "precision": self.precision,
            "place": self.place,
            "calibration": self.calibration,
            "path": None if self.reasons else self.name,
            "size_mb": len(self.model) / 1e6,
            "threshold": self.threshold,
            **asdict(self.exchange),
            "passed": not self.reasons,
            "reasons": list(self.reasons),
            "tried": [
                {
                    "calibration": other.calibration,
                    "decisions_changed": other.exchange.parity.decisions_changed,
                    "loss": other.exchange.loss,
                    "passed": not other.reasons,
                }
                for other in tried
            ],
        }


def calibration_frames(train: Part, seed: int) -> NDArray[np.uint8]:
    """Training images by which ranges are measured: as many of every class, drawn without augmentation."""
    rng = np.random.default_rng(seed)
    labels = np.unique(train.labels)
    own = [rng.permutation(np.flatnonzero(train.labels == k))[: CALIBRATION_IMAGES // len(labels)] for k in labels]
    frames: NDArray[np.uint8] = train.images[np.sort(np.concatenate(own))]
    return frames


def limits(line: LineProfile, val: Part) -> gate.Limits:
    """What the gate allows a variant on these validation images."""
    good, asked = line.classes.good, line.acceptance
    sound = 0 if good is None else int((val.labels == line.classes.labels.index(good)).sum())
    escape_max = asked.escape_max or DEFAULT_ESCAPE
    return gate.Limits(
        escapes=None if good is None else allowed_escapes(len(val.labels) - sound, escape_max),
        overkill_more=int(OVERKILL_MORE * sound),
        balanced_accuracy_less=BALANCED_ACCURACY_LESS,
        changed=allowed_escapes(len(val.labels), CHANGED_MAX),
        loss_more=LOSS_MORE,
        overkill_max=asked.overkill_max,
        balanced_accuracy_min=asked.balanced_accuracy_min,
    )


@dataclass(frozen=True)
class Judge:
    """Judges variants of one float32 network, which is its own first variant."""

    line: LineProfile
    val: Part
    infer: Infer
    reference: gate.Scored

    def judge(self, model: bytes, precision: Precision, place: Place, calibration: str | None = None) -> Variant:
        """Score a model on the validation images and hold it against the float32 network."""
        logits = self.infer(model, place)
        broken = int((~np.isfinite(logits).all(axis=1)).sum())  # of float16 that overflows
        logits = np.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=0.0) if broken else logits
        scored = gate.Scored(logits, threshold_for(self.line, self.val, logits))
        classes = self.line.classes
        found = gate.exchange(self.reference, scored, self.val.labels, classes.labels, classes.good)
        refused = [f"{broken} of {len(logits)} images get no finite score"] if broken else []
        refused += gate.reasons(found, limits(self.line, self.val))
        return Variant(precision, place, calibration, model, scored.threshold, found, tuple(refused))


def wanted(devices: Sequence[DeviceProfile]) -> list[tuple[Precision, Place]]:
    """Every precision and place that the devices ask for, once; float32 first, which is the same everywhere."""
    asked: dict[tuple[Precision, Place], None] = {("fp32", "any"): None}
    for device in devices:
        for precision in device.precisions:
            asked[precision, "any" if precision == "fp32" else PLACES[device.runtime]] = None
    return list(asked)


def variants(
    model: bytes, asked: Sequence[tuple[Precision, Place]], judge: Judge, data: Dataset, seed: int, folder: Path
) -> dict[Variant, list[Variant]]:
    """Make and judge the variants of a float32 model, each with all that was tried for it, itself among them.

    Args:
        model: serialised, float32.
        asked: as `wanted` gives it.
        judge: of this network.
        data: int8 ranges are measured on its training images.
        seed: of the draw of these images.
        folder: of the stage; files needed meanwhile lie below it.
    """
    made = {}
    for precision, place in asked:
        if precision == "fp32":
            tried = [judge.judge(model, precision, place)]
        elif precision == "fp16":
            tried = [judge.judge(to_fp16(model), precision, place)]
        else:
            flavour: Literal["cpu", "tensorrt"] = "tensorrt" if place == "tensorrt" else "cpu"
            frames = calibration_frames(data.train, seed)
            with _scratch(folder) as scratch:
                int8 = {c: quantise(model, calibrate(model, frames, c, scratch), flavour) for c in CALIBRATIONS}
            tried = [judge.judge(own, precision, place, name) for name, own in int8.items()]
        made[min(tried, key=lambda variant: variant.rank)] = tried
    return made


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, also after a kill: the next attempt begins by emptying it."""
    place = folder / "calibration"
    rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        yield place
    finally:
        rmtree(place)


def fastest(timed: Mapping[str, Summary], size_mb: Mapping[str, float], limit_mb: float) -> str:
    """Return the precision to deliver: the fastest of those that keep the size budget, fp32 if that could be chance.

    Another one is faster than fp32 beyond chance if their medians lie further apart than two standard deviations of a
    turn's median, of both together: `cv_turns` says how far the turns, which were taken alternately, agree.

    Args:
        timed: latencies by precision, fp32 among them.
        size_mb: of the files, in 10^6 bytes.
        limit_mb: the size budget; where no file keeps it, it rules none out.
    """
    fitting = [name for name in timed if size_mb[name] <= limit_mb] or list(timed)
    best = min(fitting, key=lambda name: timed[name].p50_ms)
    if best == "fp32" or "fp32" not in fitting:
        return best
    own, plain = timed[best], timed["fp32"]
    doubt = 2 * math.hypot(own.p50_ms * own.cv_turns, plain.p50_ms * plain.cv_turns)
    return best if plain.p50_ms - own.p50_ms > doubt else "fp32"
