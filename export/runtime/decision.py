"""From class probabilities to a verdict: one rule, for the gate on the workstation and for the station."""

import math
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


def softmax_row(logits: Sequence[float]) -> list[float]:
    """Return the probabilities of one row of logits, as ``softmax`` does: of so few numbers plain Python is quicker."""
    highest = max(logits)
    powers = [math.exp(logit - highest) for logit in logits]
    total = sum(powers)
    return [power / total for power in powers]


def reject_scores(scores: NDArray[np.floating], labels: Sequence[str], good: str) -> NDArray[np.float64]:
    """Return 1 minus the probability of the good label, float64 (N,), of probabilities (N, K)."""
    rejects: NDArray[np.float64] = 1.0 - scores[:, labels.index(good)].astype(np.float64)
    return rejects


class Rule:
    """How probabilities of one picture become a decision; see ``decide``."""

    def __init__(self, labels: Sequence[str], good: str | None, threshold: float | None) -> None:
        """Raise UsageError unless there are two labels or more, and a threshold with a good one of them, only then."""
        ruled = (good in labels and threshold is not None) or (good is None and threshold is None)
        if not (ruled and len(labels) >= 2):
            raise _undecidable(labels, f"{len(labels)} labels, good {good!r}, threshold {threshold!r}")
        self._labels = tuple(labels)
        self._good = None if good is None else self._labels.index(good)
        self._threshold = threshold
        self._kept = [k for k in range(len(labels)) if k != self._good]

    def score(self, row: Sequence[float]) -> float:
        """Return the reject score of one row of probabilities; without a good label, the highest probability."""
        return max(row) if self._good is None else 1.0 - row[self._good]

    def decide(self, row: Sequence[float]) -> Decision:
        """Return the decision on one row of probabilities; raises GateError for one that is not finite."""
        if not math.isfinite(sum(row)):
            raise GateError(
                "the network gave no finite score",
                expected="probabilities",
                found="NaN or infinity",
                fix="Do not pass it",
            )
        label = self._labels[max(self._kept, key=row.__getitem__)]
        if self._good is None or self._threshold is None:
            return Decision("class", label)
        return (
            Decision("reject", label)
            if self.score(row) >= self._threshold
            else Decision("pass", self._labels[self._good])
        )


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
    rule = Rule(labels, good, threshold)
    if scores.ndim != 2 or scores.shape[1] != len(labels):
        raise _undecidable(labels, f"{scores.shape}, good {good!r}, threshold {threshold!r}")
    return [rule.decide(row) for row in scores.astype(np.float64).tolist()]


def _undecidable(labels: Sequence[str], found: str) -> UsageError:
    return UsageError(
        "scores cannot be decided on",
        expected=f"scores (N, {len(labels)}) of two labels or more, a threshold where one is good",
        found=found,
        fix="Give every label's score, in the order of the labels",
    )
