"""What a picture looks like in a few numbers: where it is bright, how strong its contrasts, how sharp its edges."""

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

GRID: Final = 4


class Statistics(NamedTuple):
    """Of one frame: ``brightness`` is the mean grey (0 to 255), ``sharpness`` the root mean square step to the next
    pixel.

    ``vector`` is float64 (16 * channels + 3,): the mean of each cell of a 4 x 4 grid, channel by channel, then
    log(1 + x) of the standard deviation and of the root mean square steps along x and along y.
    """

    vector: NDArray[np.float64]
    brightness: float
    sharpness: float


class Gauge:
    """Measures frames of one shape, uint8 (height, width, channels)."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        rows, columns = _cells(height), _cells(width)
        self._rows = _averaging(rows, height)
        self._columns = np.kron(_averaging(columns, width).T, np.eye(channels, dtype=np.float32))
        self._shares = np.repeat(np.outer(rows / height, columns / width), channels) / channels
        self._shape = (height, width * channels)
        self._channels = channels

    @property
    def size(self) -> int:
        """The length of the vector."""
        return GRID * GRID * self._channels + 3

    def measure(self, frame: NDArray[np.uint8]) -> Statistics:
        """Return the statistics of one frame."""
        values = frame.reshape(self._shape).astype(np.float32)
        means = (self._rows @ values @ self._columns).ravel()
        brightness = float(means @ self._shares)
        contrast = math.sqrt(max(0.0, _mean_square(values) - brightness * brightness))
        along_x = _mean_square(values[:, self._channels :] - values[:, : -self._channels])
        along_y = _mean_square(values[1:] - values[:-1])
        vector = np.empty(self.size)
        vector[:-3] = means
        vector[-3:] = math.log1p(contrast), math.log1p(math.sqrt(along_x)), math.log1p(math.sqrt(along_y))
        return Statistics(vector, brightness, math.sqrt(along_x + along_y))


def _cells(length: int) -> NDArray[np.int64]:
    """How many pixels each of the GRID cells along one side has, in order."""
    edges = np.arange(GRID + 1) * length // GRID
    return np.diff(edges)


def _averaging(cells: NDArray[np.int64], length: int) -> NDArray[np.float32]:
    """Return (GRID, length): each row averages over one cell."""
    cell_of = np.repeat(np.arange(GRID), cells)
    averaging: NDArray[np.float32] = np.equal.outer(np.arange(GRID), cell_of).astype(np.float32)
    return averaging / averaging.sum(axis=1, keepdims=True)


def _mean_square(values: NDArray[np.float32]) -> float:
    flat = np.ascontiguousarray(values).reshape(-1)
    return float(flat @ flat) / flat.size
