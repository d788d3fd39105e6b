"""Swapout: Y = T1 * X + T2 * F(X) with independent Bernoulli masks (Singh, Hoiem, Forsyth, NIPS 2016, section 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LEVELS = 256  # masks are drawn as bytes, so every probability is a multiple of 1/256


def quantise(probability: float) -> int:
    """Return the level k with k/256 nearest to `probability`.

    Raises:
        ValueError: unless k lies in 1 to 256; a stream that is always dropped cannot be collapsed.
    """
    level = round(probability * LEVELS)
    if not 1 <= level <= LEVELS:
        raise ValueError(f"Swapout probability must lie in (0, 1], found {probability}")
    return level


def linear_schedule(first: float, last: float, blocks: int) -> tuple[float, ...]:
    """Keep probabilities over depth, from `first` at the first block to `last` at the last (paper, section 4)."""
    if blocks == 1:
        return (last,)
    return tuple(first + (last - first) * block / (blocks - 1) for block in range(blocks))


def _bytes_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform bytes in the memory layout of `x`; 64-bit draws are eight times cheaper than one draw a byte."""
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None, generator=generator)
    return words.view(torch.uint8)[: x.numel()].as_strided(x.shape, x.stride())


def _keep(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    return x if level == LEVELS else x * (_bytes_like(x, generator) < level)


class Swapout(nn.Module):
    """Joins a stream X and a branch F(X), both (N, C, H, W) and of one shape.

    With a generator (`sample_with`) every unit of every example is drawn afresh; without one the layer computes
    the expectation p1 * X + p2 * F(X). Masks are not inverted. `p1` and `p2` are multiples of 1/256 and are the
    numbers that sampling, expectation and collapse all use.
    """

    def __init__(self, p1: float, p2: float) -> None:
        super().__init__()
        self._level1, self._level2 = quantise(p1), quantise(p2)
        self.generator: torch.Generator | None = None

    @property
    def p1(self) -> float:
        """Probability that a unit of the stream X is kept."""
        return self._level1 / LEVELS

    @property
    def p2(self) -> float:
        """Probability that a unit of the branch F(X) is kept."""
        return self._level2 / LEVELS

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        """Return the joined stream, of the shape and dtype of its inputs."""
        if self.generator is not None:
            return _keep(x, self._level1, self.generator) + _keep(f, self._level2, self.generator)
        if self._level1 == self._level2 == LEVELS:
            return x + f
        return self.p1 * x + self.p2 * f

    def extra_repr(self) -> str:
        """Show the two probabilities."""
        return f"p1={self.p1:g}, p2={self.p2:g}"


def sample_with(network: nn.Module, generator: torch.Generator | None) -> None:
    """Let every Swapout layer of `network` sample from `generator`, or compute its expectation when it is None."""
    for module in network.modules():
        if isinstance(module, Swapout):
            module.generator = generator


def probabilities(network: nn.Module) -> Sequence[tuple[float, float]]:
    """(p1, p2) of every Swapout layer, in the order of the forward pass."""
    return [(m.p1, m.p2) for m in network.modules() if isinstance(m, Swapout)]
