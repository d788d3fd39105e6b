"""The delivered network of a line in every precision: what each gains and loses on the TEST images, and what it costs.

    python -m tests.benchmarks precision [LINE] [--runs DIR]

The line must have been run. Every calibration of both int8 flavours is shown, not only the best, and one that is
spoiled: measured on a grey card instead of the line's pictures. Thresholds, and whether a variant passes the gate, come
from the validation images; accuracy, escape, overkill and decisions changed are of the test images; latencies are
medians of ONNX Runtime on this CPU, all variants in turn. Files for TensorRT are timed here, too, but not meant for it.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from export.build import gate
from export.build.precision import to_fp16
from export.build.quantise import CALIBRATIONS, Flavour, calibrate, quantise
from export.runtime.decision import decide, softmax
from export.runtime.timing import measure
from factory.cost.book import open_runner
from factory.data.dataset import Dataset, Part
from factory.delivery import logits_at
from factory.pipeline import Run
from factory.profiles import Classes, DeviceProfile, LineProfile, load_line
from factory.spaces.plan import Plan
from factory.training.acceptance import threshold_for
from factory.training.metrics import Estimate, balanced_accuracy, bootstrap, escape, overkill
from factory.variants import Judge, Place, Variant, calibration_frames
from tests.benchmarks.quality import percent

ROUNDS, SECONDS = 7, 0.3
SPOILED = "min-max of a grey card"
FLAVOURS: tuple[Flavour, ...] = ("cpu", "tensorrt")


@dataclass(frozen=True)
class Subject:
    """One float32 network of a line."""

    name: str
    line: LineProfile
    device: DeviceProfile
    data: Dataset
    plan: Plan
    model: bytes

    def on_validation(self, model: bytes, place: Place) -> NDArray[np.float32]:
        """Logits of one of its variants on the validation images."""
        return logits_at(place, model, self.plan, self.device, self.data.val.images)


def _variants(subject: Subject) -> Iterator[Variant]:
    val, model = subject.data.val, subject.model
    exact = subject.on_validation(model, "any")
    reference = gate.Scored(exact, threshold_for(subject.line, val, exact))
    held = Judge(subject.line, val, subject.on_validation, reference)
    yield held.judge(model, "fp32", "any")
    yield held.judge(to_fp16(model), "fp16", "cpu")
    yield held.judge(to_fp16(model), "fp16", "tensorrt")
    frames = calibration_frames(subject.data.train, subject.line.training.seed)
    with TemporaryDirectory() as scratch:
        ranges = {name: calibrate(model, frames, name, Path(scratch)) for name in CALIBRATIONS}
        card = np.full_like(frames, round(float(frames.mean())))
        ranges[SPOILED] = calibrate(model, card, "min-max", Path(scratch))
    for flavour in FLAVOURS:
        for name, own in ranges.items():
            yield held.judge(quantise(model, own, flavour), "int8", flavour, name)


def _judged(scored: gate.Scored, test: Part, classes: Classes) -> list[dict[str, float] | None]:
    """Balanced accuracy, escape and overkill on the test images, with 95 % intervals."""
    truth, scores = test.labels, softmax(scored.logits)
    best = scores.argmax(axis=1)
    own = bootstrap(truth, lambda rows: balanced_accuracy(truth[rows], best[rows]))
    balanced = asdict(Estimate(balanced_accuracy(truth, best), *own))
    if classes.good is None:
        return [balanced, None, None]
    rejected = np.array([d.verdict == "reject" for d in decide(scores, classes.labels, classes.good, scored.threshold)])
    good = classes.labels.index(classes.good)
    return [balanced, asdict(escape(truth, rejected, good)), asdict(overkill(truth, rejected, good))]


def _verdict(variant: Variant, variants: list[Variant]) -> str:
    """Whether it passes, and whether the factory would keep it of all calibrations of its kind."""
    rivals = [v for v in variants if (v.precision, v.place) == (variant.precision, variant.place)]
    kept = variant.calibration is not None and variant is min(rivals, key=lambda rival: rival.rank)
    return "; ".join(variant.reasons) or ("yes, kept" if kept else "yes")


def table(subject: Subject) -> str:
    """Markdown rows of every variant of one network."""
    variants, test, classes = list(_variants(subject)), subject.data.test, subject.line.classes
    frame = test.images[:1]
    runners = [partial(open_runner, variant.model, subject.plan, subject.device) for variant in variants]
    timed = measure(runners, frame, rounds=ROUNDS, seconds=SECONDS)
    lines = [
        f"{subject.name}: {len(subject.data.val.labels)} validation images, {len(test.labels)} test images",
        "",
        "| precision | calibration | balanced accuracy % | escape % | overkill % | changed on test | passes the gate "
        "| p50 ms | ratio | MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    reference: gate.Scored | None = None
    for variant, latency in zip(variants, timed, strict=True):
        logits = logits_at(variant.place, variant.model, subject.plan, subject.device, test.images)
        scored = gate.Scored(logits, variant.threshold)
        reference = reference or scored
        changed = gate.compare(reference, scored, classes.labels, classes.good).decisions_changed
        balanced, escapes, rejected = _judged(scored, test, classes)
        lines.append(
            f"| {variant.precision}{'' if variant.place == 'any' else f', {variant.place}'} "
            f"| {variant.calibration or '-'} | {percent(balanced)} | {percent(escapes)} | {percent(rejected)} "
            f"| {changed} | {_verdict(variant, variants)} | {latency.p50:.3f} "
            f"| {latency.p50 / timed[0].p50:.2f} | {len(variant.model) / 1e6:.3f} |"
        )
    return "\n".join(lines)


def main(line: str = "solar-cells", runs: Path = Path("runs")) -> None:
    """Print a table for the delivered network and one for the plain reference."""
    profile, root = load_line(line)
    run = Run(profile, root, runs)
    for name, network in zip(("delivered", "plain reference"), run.networks, strict=False):
        told = f"{profile.name}, {name} ({network.genome})"
        model = network.models["fp32"]
        print(table(Subject(told, profile, run.device, run.data, network.plan, model)), end="\n\n", flush=True)
