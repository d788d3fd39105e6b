"""From class probabilities to a verdict: one rule, for the gate on the workstation and for the station."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from export.runtime.errors import GateError, UsageError

VerdictName: TypeAlias = Literal["pass", "reject", "class"]


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and the label that goes with it; "class" is the verdict of a line that only sorts."""

    verdict: VerdictName
    label: str


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return float64 probabilities (N, K) of logits (N, K), each row summing to 1."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def reject_scores(scores: NDArray[np.floating], labels: Sequence[str], good: str) -> NDArray[np.float64]:
    """Return 1 minus the probability of the good label, float64 (N,), of probabilities (N, K)."""
    rejects: NDArray[np.float64] = 1.0 - scores[:, labels.index(good)].astype(np.float64)
    return rejects


def decide(
    scores: NDArray[np.floating], labels: Sequence[str], good: str | None, threshold: float | None
) -> list[Decision]:
    """Return one decision a row of probabilities (N, K), K the labels in output order.

    With a good label, a row is rejected when its reject score is at least the threshold, and is then
    called by the most probable of the other labels; else it passes and is called good. Without one, its
    label is the most probable. Of equal probabilities the first label counts.

    Raises UsageError where the shape, labels and threshold do not belong together, and GateError for a
    score that is not finite: compared with a threshold it would pass.
    """
    fits = scores.ndim == 2 and scores.shape[1] == len(labels) >= 2
    ruled = (good in labels and threshold is not None) or (good is None and threshold is None)
    if not (fits and ruled):
        raise UsageError(
            "scores cannot be decided on",
            expected=f"scores (N, {len(labels)}) of two labels or more, a threshold where one is good",
            found=f"{scores.shape}, good {good!r}, threshold {threshold!r}",
            fix="Give every label's score, in the order of the labels",
        )
    if not np.isfinite(scores).all():
        raise GateError(
            "the network gave no finite score",
            expected="probabilities",
            found="NaN or infinity",
            fix="Do not pass it",
        )
    if good is None or threshold is None:
        return [Decision("class", labels[index]) for index in scores.argmax(axis=1)]
    others = [label for label in labels if label != good]
    defects = scores[:, [labels.index(label) for label in others]].argmax(axis=1)
    rejected = reject_scores(scores, labels, good) >= threshold
    return [
        Decision("reject", others[defect]) if reject else Decision("pass", good)
        for reject, defect in zip(rejected, defects, strict=True)
    ]
