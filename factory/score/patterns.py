"""Sample-wise activation patterns as bits, and how many of them are distinct. Exact for any number of samples."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.unsignedinteger]  # a pattern a row: (V,), or (V, K) of 64 bits where S > 64


def _planes(values: NDArray[np.floating]) -> list[NDArray[np.uint8]]:
    """One byte a pattern for every eight samples. A doubling and a bit: no shift, so that it runs in vector lanes."""
    bits = np.greater(values, 0).view(np.uint8)
    planes = []
    for first in range(0, len(bits), 8):
        plane = bits[first].copy()
        for row in bits[first + 1 : first + 8]:
            np.add(plane, plane, out=plane)
            np.bitwise_or(plane, row, out=plane)
        planes.append(plane)
    return planes


def pack(values: NDArray[np.floating]) -> Words:
    """Pack "is it positive for sample s" to the shortest unsigned words.

    Args:
        values: float (S, V), S of 1 or more. NaN is not positive.

    Returns:
        uint8, 16, 32 or 64 (V,); for more than 64 samples uint64 (V, ceil(S / 64)).
    """
    planes = _planes(values)
    if len(planes) == 1:
        return planes[0]
    if len(planes) == 2:
        return planes[0].astype(np.uint16) << np.uint16(8) | planes[1]
    width = 4 if len(planes) <= 4 else -(-len(planes) // 8) * 8
    rows = np.zeros((values.shape[1], width), np.uint8)
    for index, plane in enumerate(planes):
        rows[:, index] = plane
    return (
        rows.view(np.uint32).ravel()
        if width == 4
        else rows.view(np.uint64).squeeze(1)
        if width == 8
        else rows.view(np.uint64)
    )


def distinct(words: Sequence[Words]) -> int:
    """Number of distinct patterns over all layers: a global count, not a sum of the layers'."""
    rows = np.concatenate(words)
    if not len(rows):
        return 0
    if rows.ndim == 2:
        return len(np.unique(rows, axis=0))
    rows.sort()
    return int(np.count_nonzero(rows[1:] != rows[:-1])) + 1


def pack_on_device(values: Tensor) -> Tensor:
    """As `pack`, in torch and on the device of `values` (S, V): int64 (V,), or (V, K) where S > 64."""
    words = torch.zeros(-(-len(values) // 64), values.shape[1], dtype=torch.int64, device=values.device)
    for sample, row in enumerate(values):
        words[sample // 64].mul_(2).add_(row > 0)  # wraps at 64 bits, which keeps every bit
    return words[0] if len(words) == 1 else words.T.contiguous()


def distinct_on_device(words: Sequence[Tensor]) -> Tensor:
    """As `distinct`, an int64 scalar on the device: nothing returns to the host."""
    rows = torch.cat(list(words))
    if rows.ndim == 2:
        return torch.tensor(len(torch.unique(rows, dim=0)), device=rows.device)
    ordered = rows.sort().values
    return (ordered[1:] != ordered[:-1]).sum() + min(1, len(ordered))
