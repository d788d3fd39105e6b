"""What networks still decide rightly when the pictures get worse."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from export.runtime.decision import decide, softmax
from factory.data.dataset import Part
from factory.profiles import Classes
from factory.report import model
from factory.training.corruptions import CORRUPTIONS, SEVERITIES, Images
from factory.training.metrics import Estimate, Labels, escape, overkill
from factory.training.paired import Flags, balanced_share, difference
from factory.workspace import read_json, write_json

STEPS: Final = 1 + len(CORRUPTIONS)  # ticks of a study


@dataclass(frozen=True, slots=True)
class Subject:
    """A network under study: uint8 images (N, H, W, C) to float32 logits (N, K), and its operating threshold."""

    name: str
    logits: Callable[[Images], NDArray[np.float32]]
    threshold: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """One network on one set of pictures; escape and overkill None on a line without a good class."""

    balanced_accuracy: Estimate
    escape: Estimate | None
    overkill: Estimate | None


def _judge(subject: Subject, classes: Classes, images: Images, truth: Labels) -> tuple[Point, Flags]:
    """The figures, and whether each image's most probable class is the right one, (N,)."""
    scores = softmax(subject.logits(images))
    right = scores.argmax(axis=1) == truth
    if classes.good is None:
        return Point(balanced_share(truth, right), None, None), right
    decided = decide(scores, classes.labels, classes.good, subject.threshold)
    rejected = np.array([decision.verdict == "reject" for decision in decided])
    good = classes.labels.index(classes.good)
    return Point(balanced_share(truth, right), escape(truth, rejected, good), overkill(truth, rejected, good)), right


def study(
    line: str, classes: Classes, test: Part, subjects: Sequence[Subject], seed: int, tick: Callable[[], None]
) -> dict[str, Any]:
    """Judge every network on the same corrupted pictures; return the document of `robustness.json`.

    The mean over all kinds and severities is that of Hendrycks and Dietterich (ICLR 2019) without their division by a
    reference network: the clean value stands beside it, and the difference to the first network has an interval over
    images.

    Args:
        line: its name.
        classes: of the line.
        test: images that nothing was chosen on.
        subjects: one or more; all others are compared with the first.
        seed: of what is drawn at random.
        tick: called `STEPS` times.
    """
    clean = [_judge(subject, classes, test.images, test.labels)[0] for subject in subjects]
    tick()
    curves: list[dict[str, list[Point]]] = [{} for _ in subjects]
    right = np.zeros((len(subjects), len(test.labels)))
    for name, corrupt in CORRUPTIONS.items():
        for severity in SEVERITIES:
            images = corrupt(test.images, severity, seed)
            for number, subject in enumerate(subjects):
                point, hits = _judge(subject, classes, images, test.labels)
                curves[number].setdefault(name, []).append(point)
                right[number] += hits / (len(CORRUPTIONS) * len(SEVERITIES))
        tick()
    networks = [
        _summary(subject, clean[number], curves[number])
        | {"difference": asdict(difference(test.labels, right[0], right[number])) if number else None}
        for number, subject in enumerate(subjects)
    ]
    return {"line": line, "images": len(test.labels), "good": classes.good, "seed": seed, "networks": networks}


def _means(points: Sequence[Point]) -> dict[str, float | None]:
    """Mean of each figure over pictures worsened in several ways."""
    found = {name: [getattr(point, name) for point in points] for name in Point.__slots__}
    return {
        name: None if None in estimates else float(np.mean([estimate.value for estimate in estimates]))
        for name, estimates in found.items()
    }


def _summary(subject: Subject, clean: Point, curves: dict[str, list[Point]]) -> dict[str, Any]:
    each = {name: _means(points) for name, points in curves.items()}
    worst = min(each, key=lambda name: each[name]["balanced_accuracy"] or 0.0)
    return {
        "name": subject.name,
        "threshold": subject.threshold,
        "clean": asdict(clean),
        "mean": _means([point for points in curves.values() for point in points]),
        "worst": {"corruption": worst, **each[worst]},
        "curves": {name: [asdict(point) for point in points] for name, points in curves.items()},
    }


def write_robustness(
    line: str,
    classes: Classes,
    test: Part,
    subjects: Sequence[Subject],
    seed: int,
    folder: Path,
    tick: Callable[[], None],
) -> None:
    """Write the document of `study` to robustness.json in `folder`."""
    write_json(folder / "robustness.json", study(line, classes, test, subjects, seed, tick))


def load_robustness(folder: Path) -> model.Robustness:
    """What the page shows of the robustness.json in `folder`."""
    return section(read_json(folder / "robustness.json"))


def section(document: dict[str, Any]) -> model.Robustness:
    """The document of `study` as the page takes it."""
    rows = [
        model.RobustnessRow(
            network["name"],
            network["clean"]["balanced_accuracy"]["value"],
            network["mean"]["balanced_accuracy"],
            network["mean"]["escape"],
            network["mean"]["overkill"],
            network["worst"]["corruption"],
            network["worst"]["balanced_accuracy"],
            network["difference"] and tuple(network["difference"][key] for key in ("value", "low", "high")),
        )
        for network in document["networks"]
    ]
    curves = [curve for network in document["networks"] for curve in _curves(network)]
    return model.Robustness(document["images"], document["good"], rows, curves)


def _curves(network: dict[str, Any]) -> Iterator[model.RobustnessCurve]:
    for corruption, points in network["curves"].items():
        all_points = [network["clean"], *points]
        values: dict[str, list[Any]] = {
            name: [point[name] and point[name]["value"] for point in all_points] for name in Point.__slots__
        }
        yield model.RobustnessCurve(network["name"], corruption, **values)
