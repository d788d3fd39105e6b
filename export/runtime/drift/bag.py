"""How values rank among all that came before, in memory that does not grow.

A value is counted as the half-precision number at or below it. Such numbers are ordered as their bit patterns are, so
a histogram of 31,744 counts holds every value from 0 to 65,504 within a thousandth of itself. Its edges are fixed
beforehand: edges from the data would make those data and later ones no longer exchangeable.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LARGEST", "Bag"]

LARGEST: Final = 65_504.0
_BLOCKS, _WIDTH = 124, 256  # bit patterns of the finite half-precision numbers from 0 on
_BLOCK, _PLACE = np.arange(_BLOCKS), np.arange(_WIDTH)


class Bag:
    """The values of several quantities, a row each."""

    def __init__(self, rows: int) -> None:
        self._counts = np.zeros((rows, _BLOCKS, _WIDTH), np.int64)
        self._blocks = np.zeros((rows, _BLOCKS), np.int64)  # their sums, so that a rank needs few additions
        self._rows = np.arange(rows)

    def fill(self, row: int, values: ArrayLike) -> None:
        """Add values to one row."""
        self._counts[row] += np.bincount(_patterns(values), minlength=_BLOCKS * _WIDTH).reshape(_BLOCKS, _WIDTH)
        self._blocks[row] = self._counts[row].sum(axis=1)

    def add(self, values: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Add a value to each row; return how many in the row are larger, equal (it too) and there in all, (rows,)."""
        block, place = np.divmod(_patterns(values), _WIDTH)
        self._counts[self._rows, block, place] += 1
        self._blocks[self._rows, block] += 1
        counts = self._counts[self._rows, block]
        larger = (self._blocks * (block[:, None] < _BLOCK)).sum(axis=1)
        larger += (counts * (place[:, None] < _PLACE)).sum(axis=1)
        return larger, counts[self._rows, place], self._blocks.sum(axis=1)

    def median(self, row: int, without: ArrayLike = ()) -> float | None:
        """Return the median of a row, some of its values left out; None where none is left."""
        counts = self._counts[row].ravel() - np.bincount(_patterns(without), minlength=_BLOCKS * _WIDTH)
        below = np.cumsum(counts)
        if below[-1] == 0:
            return None
        return float(np.uint16(np.searchsorted(below, below[-1] / 2)).view(np.float16))

    def empty(self, row: int) -> None:
        """Forget the values of one row."""
        self._counts[row] = 0
        self._blocks[row] = 0


def _patterns(values: ArrayLike) -> NDArray[np.int64]:
    exact = np.minimum(np.asarray(values, np.float64), LARGEST)
    half = exact.astype(np.float16)
    return half.view(np.uint16).astype(np.int64) - (half > exact)
