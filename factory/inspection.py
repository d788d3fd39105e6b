"""What a station sends to a person: the bundle's reference, and what that costs and brings on the test pictures."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from export.build.reference import familiar, measured, quantile_rank, reference, review_band
from export.runtime.decision import Rule, reject_scores, softmax
from export.runtime.drift.novelty import Novelty
from export.runtime.strictjson import canonical_bytes
from factory.data.dataset import Dataset
from factory.delivery import logits_at
from factory.outcome import Delivered
from factory.profiles import Classes, DeviceProfile, LineProfile
from factory.training.metrics import Labels, escape, overkill, proportion
from factory.workspace import write_atomic, write_json

REFERENCE: Final = "reference.json"
INSPECTION: Final = "inspection.json"

Flags = NDArray[np.bool_]


def write_inspection(
    line: LineProfile,
    device: DeviceProfile,
    chosen: Delivered,
    data: Dataset,
    logits: NDArray[np.float32],
    folder: Path,
) -> None:
    """Write reference.json, which goes into the bundle, and inspection.json, which the report shows.

    Args:
        line: for its labels and its shares.
        device: that runs the network.
        chosen: the delivered network in its precision.
        data: familiar pictures are of its training part; limits and what is usual of its validation part.
        logits: of the test images, (N, K).
        folder: of the stage.
    """
    classes, asked = line.classes, line.inspection
    val = softmax(logits_at(chosen.variant["place"], chosen.model, chosen.plan, device, data.val.images))
    told, looks = familiar(data.train.images, data.val.images, asked.novelty_share)
    rule = Rule(classes.labels, classes.good, chosen.threshold)
    write_atomic(folder / REFERENCE, canonical_bytes(reference(told, looks, [rule.score(row) for row in val.tolist()])))
    scores = softmax(logits)
    near = np.zeros(len(scores), np.bool_)
    if classes.good is not None and chosen.threshold is not None:
        band = review_band(reject_scores(val, classes.labels, classes.good), chosen.threshold, asked.review_share)
        rejects = reject_scores(scores, classes.labels, classes.good)
        near = near if band is None else (band.low <= rejects) & (rejects <= band.high)
    novelty = Novelty(told)
    unlike = np.array([novelty.of(own) > told.limit for own in measured(data.test.images)])
    decided = [rule.decide(row).label for row in scores.tolist()]
    document = outcomes(classes, data.test.labels, decided, near, unlike)
    few = quantile_rank(len(looks.novelty), asked.novelty_share) > len(looks.novelty)
    write_json(folder / INSPECTION, document | {"validation": len(looks.novelty), "too_few": few})


def outcomes(classes: Classes, truth: Labels, decided: list[str], near: Flags, unlike: Flags) -> dict[str, Any]:
    """Count what goes to a person, and the mistakes that are left where the person is right.

    Args:
        classes: labels, and the good one.
        truth: (N,).
        decided: what the network alone says of each picture.
        near: pictures whose score is too near to the threshold, (N,).
        unlike: pictures unlike those of the training, (N,).
    """
    labels = np.array([classes.labels.index(label) for label in decided])
    review = near | unlike
    alone, left = (_mistakes(classes, truth, own) for own in (labels, np.where(review, truth, labels)))
    return {
        "images": len(truth),
        "shares": {
            name: asdict(proportion(int(own.sum()), len(truth)))
            for name, own in (("review", review), ("near", near), ("unlike", unlike))
        },
        "mistakes": {name: {"alone": alone[name], "with_person": left[name]} for name in alone},
    }


def _mistakes(classes: Classes, truth: Labels, decided: Labels) -> Mapping[str, dict[str, float]]:
    if classes.good is None:
        return {"wrong class": asdict(proportion(int((decided != truth).sum()), len(truth)))}
    good = classes.labels.index(classes.good)
    rejected = decided != good
    return {
        "escape": asdict(escape(truth, rejected, good)),
        "overkill": asdict(overkill(truth, rejected, good)),
    }
