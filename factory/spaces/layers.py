"""Layers that torch lacks and several spaces need. A score replaces some of them when it stacks initialisations."""

import torch
from torch import Tensor, nn


class Concat(nn.Module):
    """Joins feature maps (N, C_i, H, W) along the channels."""

    def forward(self, *maps: Tensor) -> Tensor:
        """Return (N, sum of C_i, H, W)."""
        return torch.cat(maps, 1)


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
