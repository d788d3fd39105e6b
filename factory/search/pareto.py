"""Domination and fronts."""

import numpy as np
from numpy.typing import NDArray


def front(costs: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of the rows (N, M) that no other row dominates, all columns to be minimised.

    A row dominates another if it is nowhere worse and somewhere better; equal rows do not dominate each other.
    """
    keep = []
    for index, row in enumerate(costs):
        dominated = np.all(costs <= row, axis=1) & np.any(costs < row, axis=1)
        if not dominated.any():
            keep.append(index)
    return np.array(keep, np.intp)
