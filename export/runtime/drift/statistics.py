"""What a picture looks like in a few numbers: where it is bright, how strong its contrasts, how sharp its edges."""

import math
import threading
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

GRID: Final = 4
_CELLS: Final = GRID * GRID
_Real = NDArray[np.float32]


class Statistics(NamedTuple):
    """Of one frame: ``brightness`` is the mean grey (0 to 255), ``sharpness`` the root mean square step to the next
    pixel, along x and along y.

    ``vector`` is float64 (16 * channels + 37,): the mean of each cell of a 4 x 4 grid, channel by channel; then log(1 +
    r), r being the root mean square of the steps along x in each cell, of those along y, of both over the whole frame,
    of the changes from step to step along x (all rows taken as one) and along y, and of the deviations from the
    brightness. From the last pixel of a row or column there is no step, which counts as 0.
    """

    vector: NDArray[np.float64]
    brightness: float
    sharpness: float


class Gauge:
    """Measures frames of one shape, uint8 (height, width, channels).

    It runs between the network and the verdict, so it calls numpy as seldom as can be and keeps its arrays, a set for
    each thread.
    """

    def __init__(self, height: int, width: int, channels: int) -> None:
        rows, columns = _cells(height), _cells(width)
        across = _averaging(columns, width).T
        shares = np.outer(rows / height, columns / width).astype(np.float32)
        self._rows = _averaging(rows, height)
        self._columns = np.kron(across, np.eye(channels, dtype=np.float32))
        self._along_y = np.kron(across, np.full((channels, 1), 1 / channels, np.float32))
        self._along_x = self._along_y.copy()
        self._along_x[-channels:] = 0  # from the end of one row to the start of the next is no step
        self._shares = shares.reshape(-1)
        self._channel_shares = np.repeat(self._shares, channels) / channels
        self._shape, self._next, self._below = (height, width * channels), channels, width * channels
        self._kept = threading.local()
        self.size = _CELLS * channels + 2 * _CELLS + 5

    def measure(self, frame: NDArray[np.uint8]) -> Statistics:
        """Return the statistics of one frame."""
        arrays = self._arrays()
        pixels = arrays[0]
        pixels[:] = frame.reshape(-1)
        means = self._average(pixels, self._columns)
        brightness = float(means.dot(self._channel_shares))
        vector = np.empty(self.size)
        vector[: means.size] = means
        squares = vector[means.size :]
        along_x, squares[-3] = self._roughness(arrays, self._next, self._along_x, squares[:_CELLS])
        along_y, squares[-2] = self._roughness(arrays, self._below, self._along_y, squares[_CELLS : 2 * _CELLS])
        squares[-5:-3] = along_x, along_y
        squares[-1] = max(0.0, _mean_square(pixels) - brightness * brightness)
        np.log1p(np.sqrt(squares, out=squares), out=squares)
        return Statistics(vector, brightness, math.sqrt(along_x + along_y))

    def _arrays(self) -> tuple[_Real, _Real, _Real]:
        try:
            arrays: tuple[_Real, _Real, _Real] = self._kept.arrays
        except AttributeError:
            length = self._shape[0] * self._shape[1]
            arrays = self._kept.arrays = (
                np.empty(length, np.float32),
                np.empty(length, np.float32),
                np.empty(length, np.float32),
            )
        return arrays

    def _average(self, values: _Real, columns: _Real) -> _Real:
        averaged: _Real = self._rows.dot(values.reshape(self._shape)).dot(columns).reshape(-1)
        return averaged

    def _roughness(
        self, arrays: tuple[_Real, _Real, _Real], apart: int, columns: _Real, cells: NDArray[np.float64]
    ) -> tuple[float, float]:
        """Mean squares of the steps to the value so far apart, and of their changes; those of the cells go there."""
        pixels, steps, bends = arrays
        np.subtract(pixels[apart:], pixels[:-apart], out=steps[:-apart])
        np.subtract(steps[apart:], steps[:-apart], out=bends[:-apart])
        steps[-apart:] = 0
        np.multiply(steps, steps, out=steps)
        squares = self._average(steps, columns)
        cells[:] = squares
        return float(squares.dot(self._shares)), _mean_square(bends[: -2 * apart])


def _cells(length: int) -> NDArray[np.int64]:
    """How many pixels each of the GRID cells along one side has, in order."""
    edges = np.arange(GRID + 1) * length // GRID
    return np.diff(edges)


def _averaging(cells: NDArray[np.int64], length: int) -> _Real:
    """Return (GRID, length): each row averages over one cell."""
    cell_of = np.repeat(np.arange(GRID), cells)
    averaging: _Real = np.equal.outer(np.arange(GRID), cell_of).astype(np.float32)
    averaging /= averaging.sum(axis=1, keepdims=True)
    return averaging


def _mean_square(values: _Real) -> float:
    return float(values.dot(values)) / values.size
