"""What a picture looks like in a few numbers: where it is bright, how strong its contrasts, how sharp its edges."""

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

GRID: Final = 4


class Statistics(NamedTuple):
    """Of one frame: ``brightness`` is the mean grey (0 to 255), ``sharpness`` the root mean square step between pixels.

    ``vector`` is float64 (16 * channels + 3,): the mean of each cell of a 4 x 4 grid, channel by channel, then
    log(1 + x) of the standard deviation and of the root mean square steps to the next pixel and to the one below. The
    next pixel is that in the order of the raster: the last of a row is followed by the first of the row below.
    """

    vector: NDArray[np.float64]
    brightness: float
    sharpness: float


class Gauge:
    """Measures frames of one shape, uint8 (height, width, channels).

    It runs between the network and the verdict, so it calls numpy as seldom as can be.
    """

    def __init__(self, height: int, width: int, channels: int) -> None:
        rows, columns = _cells(height), _cells(width)
        self._rows = _averaging(rows, height)
        self._columns = np.kron(_averaging(columns, width).T, np.eye(channels, dtype=np.float32))
        self._shares = np.repeat(np.outer(rows / height, columns / width), channels) / channels
        self._shape, self._next, self._below = (height, width * channels), channels, width * channels
        self.size = GRID * GRID * channels + 3

    def measure(self, frame: NDArray[np.uint8]) -> Statistics:
        """Return the statistics of one frame."""
        values = frame.reshape(-1).astype(np.float32)
        means = self._rows.dot(values.reshape(self._shape)).dot(self._columns).reshape(-1)
        brightness = float(means.dot(self._shares))
        contrast = math.sqrt(max(0.0, _mean_square(values) - brightness * brightness))
        across = _mean_square(values[self._next :] - values[: -self._next])
        down = _mean_square(values[self._below :] - values[: -self._below])
        vector = np.empty(self.size)
        vector[:-3] = means
        vector[-3:] = math.log1p(contrast), math.log1p(math.sqrt(across)), math.log1p(math.sqrt(down))
        return Statistics(vector, brightness, math.sqrt(across + down))


def _cells(length: int) -> NDArray[np.int64]:
    """How many pixels each of the GRID cells along one side has, in order."""
    edges = np.arange(GRID + 1) * length // GRID
    return np.diff(edges)


def _averaging(cells: NDArray[np.int64], length: int) -> NDArray[np.float32]:
    """Return (GRID, length): each row averages over one cell."""
    cell_of = np.repeat(np.arange(GRID), cells)
    averaging: NDArray[np.float32] = np.equal.outer(np.arange(GRID), cell_of).astype(np.float32)
    averaging /= averaging.sum(axis=1, keepdims=True)
    return averaging


def _mean_square(values: NDArray[np.float32]) -> float:
    return float(values.dot(values)) / values.size
