"""The gate: an exported model must score and decide as the trained network did, on real images, or it is refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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


def compare(
    reference: NDArray[np.float32],
    exported: NDArray[np.float32],
    labels: Sequence[str],
    good: str | None,
    threshold: float | None,
) -> Parity:
    """Compare logits (N, K) of the trained network and of the exported model on the same images."""
    a, b = softmax(reference), softmax(exported)
    pairs = zip(decide(a, labels, good, threshold), decide(b, labels, good, threshold), strict=True)
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
