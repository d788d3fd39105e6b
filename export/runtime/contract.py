"""What a manifest says of a network's input and output, which every runner holds its model and its frames to."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.runtime.errors import BundleRefused, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """uint8 frames (N, height, width, channels) in, float32 logits (N, classes) out, under these names."""

    input_name: str
    output_name: str
    frame_shape: tuple[int, int, int]
    classes: int

    def check(self, frames: NDArray[Any]) -> None:
        """Raise UsageError unless these are one frame or more of the network's own shape and dtype."""
        if frames.dtype != np.uint8 or frames.shape[1:] != self.frame_shape or not len(frames):
            raise self._misfit("N, ", frames)

    def check_one(self, frame: NDArray[Any]) -> None:
        """Raise UsageError unless this is a frame of the network's own shape and dtype."""
        if frame.dtype != np.uint8 or frame.shape != self.frame_shape:
            raise self._misfit("", frame)

    def _misfit(self, number: str, frames: NDArray[Any]) -> UsageError:
        return UsageError(
            "these frames do not fit the network",
            expected=f"uint8 ({number}{', '.join(map(str, self.frame_shape))})",
            found=f"{frames.dtype} {frames.shape}",
            fix="Fit each picture by export.runtime.image.fit",
        )


def check_batch(number: int, least: int, most: int, fix: str) -> None:
    """Raise UsageError, with that ``fix``, unless the network takes so many frames at once."""
    if not least <= number <= most:
        raise UsageError(
            "the network does not take so many frames at once",
            expected=f"a batch of {least}" if least == most else f"a batch of {least} to {most}",
            found=f"a batch of {number}",
            fix=fix,
        )


def mismatch(expected: str, found: str) -> BundleRefused:
    """Return the refusal of a model or an engine that is not what its manifest says."""
    return BundleRefused(
        "the model is not the one its manifest describes",
        expected=expected,
        found=found,
        fix="Build the bundle again",
    )
