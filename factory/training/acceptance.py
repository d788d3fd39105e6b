"""Acceptance in the line's own terms, on test images that are touched once."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.runtime.decision import decide, reject_scores, softmax
from factory.data.dataset import Part
from factory.profiles import AcceptanceLimits, LineProfile
from factory.training.metrics import (
    Estimate,
    auroc,
    balanced_accuracy,
    bootstrap,
    escape,
    operating_threshold,
    overkill,
    proportion,
)

DEFAULT_ESCAPE = 0.05  # where the profile sets no limit, the threshold is still put somewhere sensible


@dataclass(frozen=True, slots=True)
class Judged:
    """One way of deciding, judged on the test images; escape and overkill at its own operating threshold."""

    name: str
    balanced_accuracy: Estimate
    auroc: Estimate
    escape: Estimate | None
    overkill: Estimate | None
    threshold: float | None
    recalls: dict[str, Estimate]
    raw_labels: dict[str, Estimate]  # share rejected of each label as found; right decisions on a sorting line

    def as_json(self) -> dict[str, Any]:
        """Nested plain values."""
        return asdict(self)


def threshold_for(line: LineProfile, val: Part, logits: NDArray[np.float32]) -> float | None:
    """The operating threshold of a network by its validation logits (N, K); None on a line without a good class."""
    classes = line.classes
    if classes.good is None:
        return None
    good = classes.labels.index(classes.good)
    scores = reject_scores(softmax(logits), classes.labels, classes.good)
    return operating_threshold(val.labels, scores, good, line.acceptance.escape_max or DEFAULT_ESCAPE)


def judge(name: str, line: LineProfile, test: Part, logits: NDArray[np.float32], threshold: float | None) -> Judged:
    """Judge logits (N, K) of the test images.

    Balanced accuracy and recalls are of the most probable class; escape, overkill and the share rejected of each raw
    label are of the decision by threshold, which is what the station does.
    """
    labels, truth = line.classes.labels, test.labels
    scores = softmax(logits)
    best = scores.argmax(axis=1).astype(np.int64)
    good = None if line.classes.good is None else labels.index(line.classes.good)
    accuracy = balanced_accuracy(truth, best)
    area = auroc(truth, scores, good)
    decided = decide(scores, labels, line.classes.good, threshold)
    rejected = np.array([d.verdict == "reject" for d in decided])
    right = rejected if good is not None else best == truth
    raw = np.array(test.raw_labels)
    return Judged(
        name,
        Estimate(accuracy, *bootstrap(truth, lambda rows: balanced_accuracy(truth[rows], best[rows]))),
        Estimate(area, *bootstrap(truth, lambda rows: auroc(truth[rows], scores[rows], good))),
        None if good is None else escape(truth, rejected, good),
        None if good is None else overkill(truth, rejected, good),
        threshold,
        {
            label: proportion(int(((truth == k) & (best == k)).sum()), int((truth == k).sum()))
            for k, label in enumerate(labels)
        },
        {label: proportion(int(right[raw == label].sum()), int((raw == label).sum())) for label in np.unique(raw)},
    )


@dataclass(frozen=True, slots=True)
class Check:
    """One limit, what was found, whether it holds."""

    name: str
    limit: float
    value: float
    passed: bool


def checks(limits: AcceptanceLimits, found: Mapping[str, float | None]) -> list[Check]:
    """Hold the profile's limits against the test figures `escape`, `overkill` and `balanced_accuracy`."""
    held = []
    for name, sense in (("escape", "max"), ("overkill", "max"), ("balanced_accuracy", "min")):
        limit: float | None = getattr(limits, f"{name}_{sense}")
        value = found[name]
        if limit is not None and value is not None:
            held.append(Check(f"{name}_{sense}", limit, value, value <= limit if sense == "max" else value >= limit))
    return held
