"""The gate: an exported model must score and decide as the trained network did, on real images, or it is refused.

A float32 model must decide the same. One of reduced precision decides a few parts otherwise, so it is held to counts:
escapes first, then good parts rejected, then decisions changed at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from export.runtime.decision import decide, softmax
from export.runtime.errors import GateError

SCORE_TOLERANCE: Final = 1e-4  # of a probability, float32 against float32


@dataclass(frozen=True, slots=True)
class Parity:
    """Images compared, largest difference of a score, decisions that differ."""

    images: int
    score_difference: float
    decisions_changed: int


class Scored(NamedTuple):
    """Logits (N, K) of one model, and its operating threshold; None on a line that only sorts."""

    logits: NDArray[np.float32]
    threshold: float | None


def compare(reference: Scored, exported: Scored, labels: Sequence[str], good: str | None) -> Parity:
    """Compare two models on the same images, each at its own threshold."""
    (a, at_a), (b, at_b) = ((softmax(logits), threshold) for logits, threshold in (reference, exported))
    pairs = zip(decide(a, labels, good, at_a), decide(b, labels, good, at_b), strict=True)
    return Parity(len(a), float(np.abs(a - b).max()), sum(x != y for x, y in pairs))


def refuse_unless_equal(parity: Parity, tolerance: float = SCORE_TOLERANCE) -> None:
    """Raise unless every decision is the same and every score within `tolerance`.

    Raises:
        GateError: saying how many decisions differ and by how much the scores.
    """
    if parity.decisions_changed or not parity.score_difference <= tolerance:
        raise GateError(
            "the exported model does not decide as the trained network",
            expected=f"0 decisions changed, scores within {tolerance:g}",
            found=f"{parity.decisions_changed} of {parity.images} decisions changed, "
            f"scores differ by up to {parity.score_difference:.2g}",
            fix="nothing was packed; report this with the network's genome",
        )


@dataclass(frozen=True, slots=True)
class Flow:
    """Of `total` parts those that got one (wrong) decision `before` and `after`: `new` ones came, `gone` ones went."""

    total: int
    before: int
    after: int
    new: int
    gone: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a variant gained and lost against the float32 network, on the same images, each at its own threshold.

    `escapes` counts defects that pass, `overkill` good parts that are rejected; both None on a line that only sorts.
    Balanced accuracy is that of the most probable class, loss the negative log-likelihood in nats averaged within each
    class and then over classes.
    """

    parity: Parity
    escapes: Flow | None
    overkill: Flow | None
    balanced_accuracy: float
    balanced_accuracy_before: float
    loss: float
    loss_before: float


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a variant may go; counts are of validation images.

    `escapes` is the number of defects that may pass (None on a line that only sorts), `overkill_more` that of good
    parts rejected beyond those of the float32 network, `changed` that of decisions changed. `loss_more` is in nats:
    scores that are far off though they still decide alike do so on these few images only. `overkill_max` and
    `balanced_accuracy_min` are limits of the line, which a variant must keep where the float32 network does.
    """

    escapes: int | None
    overkill_more: int
    balanced_accuracy_less: float
    changed: int
    loss_more: float
    overkill_max: float | None = None
    balanced_accuracy_min: float | None = None


def exchange(
    reference: Scored, variant: Scored, truth: NDArray[np.int64], labels: Sequence[str], good: str | None
) -> Exchange:
    """Compare a variant with the float32 network on the same images, of class indices `truth` (N,)."""
    escapes = overkill = None
    if good is not None:
        before, after = (
            np.array([d.verdict == "reject" for d in decide(softmax(logits), labels, good, threshold)])
            for logits, threshold in (reference, variant)
        )
        sound = truth == labels.index(good)
        escapes, overkill = _flow(~before[~sound], ~after[~sound]), _flow(before[sound], after[sound])
    return Exchange(
        compare(reference, variant, labels, good),
        escapes,
        overkill,
        _balanced_accuracy(truth, variant.logits),
        _balanced_accuracy(truth, reference.logits),
        _balanced_loss(truth, variant.logits),
        _balanced_loss(truth, reference.logits),
    )


def reasons(found: Exchange, limits: Limits) -> list[str]:
    """Return why a variant is refused, a sentence each; none for one that passes."""
    refused = []
    if found.escapes is not None and limits.escapes is not None:
        most = max(limits.escapes, found.escapes.before)
        if found.escapes.after > most:
            refused.append(f"{_spoken(found.escapes, 'defects pass')}, at most {most} may")
    if found.overkill is not None:
        flow = found.overkill
        most = flow.before + limits.overkill_more
        if limits.overkill_max is not None and flow.before <= limits.overkill_max * flow.total:
            most = min(most, floor(limits.overkill_max * flow.total))
        if flow.after > most:
            refused.append(f"{_spoken(flow, 'good parts are rejected')}, at most {most} may")
    before, after = found.balanced_accuracy_before, found.balanced_accuracy
    least = before - limits.balanced_accuracy_less
    if limits.balanced_accuracy_min is not None and before >= limits.balanced_accuracy_min:
        least = max(least, limits.balanced_accuracy_min)
    if after < least - 1e-9:  # of rounding
        refused.append(f"balanced accuracy {after:.2%}, at least {least:.2%} of the float32 network's {before:.2%}")
    changed, images = found.parity.decisions_changed, found.parity.images
    if changed > limits.changed:
        refused.append(f"{changed} of {images} decisions changed, at most {limits.changed} may")
    highest = found.loss_before + limits.loss_more
    if found.loss > highest:
        refused.append(f"loss {found.loss:.3f}, at most {highest:.3f} by the float32 network's {found.loss_before:.3f}")
    return refused


def _spoken(flow: Flow, what: str) -> str:
    return f"{flow.after} of {flow.total} {what} ({flow.before} in float32: {flow.new} new, {flow.gone} gone)"


def _flow(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Flow:
    counts = (before, after, after & ~before, before & ~after)
    return Flow(len(before), *(int(parts.sum()) for parts in counts))


def _balanced_accuracy(truth: NDArray[np.int64], logits: NDArray[np.float32]) -> float:
    right = logits.argmax(axis=1) == truth
    return float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))


def _balanced_loss(truth: NDArray[np.int64], logits: NDArray[np.float32]) -> float:
    own = softmax(logits)[np.arange(len(truth)), truth]
    losses = -np.log(np.maximum(own, np.finfo(np.float64).tiny))
    return float(np.mean([losses[truth == label].mean() for label in np.unique(truth)]))
