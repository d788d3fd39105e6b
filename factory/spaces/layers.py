"""Layers that torch lacks and several spaces need. A score replaces some of them when it stacks initialisations."""

import torch
from torch import Tensor, nn


def by_copy(x: Tensor, copies: int) -> Tensor:
    """View (N, copies * C, H, W) as (N, H, W, copies, C)."""
    last = x.permute(0, 2, 3, 1)
    return last.view(*last.shape[:3], copies, -1)


def side_by_side(x: Tensor) -> Tensor:
    """View (N, H, W, copies, C) as (N, copies * C, H, W), in channels-last layout where `x` is contiguous."""
    return x.flatten(3).permute(0, 3, 1, 2)


class Concat(nn.Module):
    """Joins feature maps (N, C_i, H, W) along the channels, of each copy where a score stacks several."""

    copies = 1

    def forward(self, *maps: Tensor) -> Tensor:
        """Return (N, sum of C_i, H, W)."""
        if self.copies == 1:
            return torch.cat(maps, 1)
        return side_by_side(torch.cat([by_copy(x, self.copies) for x in maps], 4))


class Zero(nn.Module):
    """The operation `none`: zeros of the output's shape, here with the same number of channels."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros (N, C, ceil(H / stride), ceil(W / stride))."""
        return x[:, :, :: self.stride, :: self.stride] * 0.0


class Shifted(nn.Module):
    """Drops the first row and column, as the second path of DARTS' factorised reduction does."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H - 1, W - 1)."""
        return x[:, :, 1:, 1:]


class GlobalMean(nn.Module):
    """Mean over all pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C)."""
        return x.mean((2, 3))
