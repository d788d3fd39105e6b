"""Swapout: Y = T1 * X + T2 * F(X) with Bernoulli masks (Singh, Hoiem, Forsyth, NIPS 2016, section 3)."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from factory.swapout.masks import LEVELS, along, keep, mask
from factory.swapout.schedule import Coupling, Noise, Per

Probability = float | tuple[float, ...]


def quantise(probability: float) -> int:
    """Return the level k with k/256 nearest to `probability`.

    Raises:
        ValueError: unless the probability lies in [0, 1], and if it is above 0 but rounds to level 0.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"a Swapout probability must lie in [0, 1], found {probability}")
    level = round(probability * LEVELS)
    if level == 0 < probability:
        raise ValueError(f"a Swapout probability is 0 or above 1/{2 * LEVELS}, found {probability}")
    return level


class Swapout(nn.Module):
    """Joins a stream X and a branch F(X), both (N, C, ...) and of one shape.

    With a generator (`sample_with`) every forward pass draws masks afresh; without one the layer computes the
    expectation p1 * X + p2 * F(X). Masks are not inverted. `p1` and `p2` are multiples of 1/256 and are the numbers
    that sampling, expectation and collapse all use.

    Args:
        p1: probability that the stream X is kept; one for all channels, or one for each.
        p2: the same of the branch F(X).
        per: what one draw decides: a unit, a channel of an example, a whole example ("sample"), or the layer.
        coupling: T1 and T2 independent, the same, or opposite, T2 = 1 - T1.

    Raises:
        ValueError: if a probability lies outside [0, 1], contradicts the coupling, or leaves nothing of the output.
    """

    def __init__(
        self,
        p1: float | Sequence[float],
        p2: float | Sequence[float],
        per: Per = "unit",
        coupling: Coupling = "independent",
    ) -> None:
        super().__init__()
        one, two = ([p] if isinstance(p, int | float) else list(p) for p in (p1, p2))
        if coupling == "same" and one != two:
            raise ValueError(f"one mask for both has one probability, found {p1} and {p2}")
        if coupling == "opposite" and not torch.allclose(torch.tensor(one) + torch.tensor(two), torch.ones(len(one))):
            raise ValueError(f"opposite masks have probabilities that sum to 1, found {p1} and {p2}")
        self._levels1 = tuple(map(quantise, one))
        opposite = tuple(LEVELS - level for level in self._levels1)
        self._levels2 = opposite if coupling == "opposite" else tuple(map(quantise, two))
        dropped = [0 in levels for levels in (self._levels1, self._levels2)]
        if all(dropped) or any(self._levels1 if dropped[0] else self._levels2 if dropped[1] else ()):
            raise ValueError(f"a probability of 0 is for one of the two terms, in all channels; found {p1} and {p2}")
        self.per: Per = per
        self.coupling: Coupling = coupling
        self.generator: torch.Generator | None = None

    @property
    def p1(self) -> Probability:
        """Probability that the stream X is kept; a tuple where it differs by channel."""
        return _probability(self._levels1)

    @property
    def p2(self) -> Probability:
        """Probability that the branch F(X) is kept; a tuple where it differs by channel."""
        return _probability(self._levels2)

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        """Return the joined stream, of the shape and dtype of its inputs."""
        if self.generator is None:
            return _sum(_expected(x, self._levels1), _expected(f, self._levels2))
        fused = _fused(x, f) if self.per == "unit" and len(self._levels1) == len(self._levels2) == 1 else None
        if fused is not None and {*self._levels1, *self._levels2} - {0, LEVELS}:
            return fused(x, f, (self._levels1[0], self._levels2[0]), self.coupling, self.generator)
        if self.coupling == "independent" or set(self._levels1) <= {0, LEVELS}:
            return _sum(
                _sampled(x, self._levels1, self.per, self.generator),
                _sampled(f, self._levels2, self.per, self.generator),
            )
        kept = mask(x, self._levels1, self.per, self.generator)
        if self.coupling == "same":
            return keep(x + f, kept)
        return keep(x, kept) + keep(f, ~kept)

    def extra_repr(self) -> str:
        """Show the two probabilities and what one draw decides."""
        return f"p1={self.p1}, p2={self.p2}, per={self.per}, coupling={self.coupling}"


Join = Callable[[Tensor, Tensor, tuple[int, int], Coupling, torch.Generator], Tensor]


@cache
def _kernel() -> Join | None:
    return importlib.import_module("factory.swapout.fused").join if importlib.util.find_spec("triton") else None


def _fused(x: Tensor, f: Tensor) -> Join | None:
    """The join in one kernel where there is one for such tensors: on a GPU, with triton."""
    if not x.is_cuda or x.dtype != f.dtype or x.itemsize > 4 or x.numel() >= 2**31 - 1024:
        return None
    return _kernel()


def _probability(levels: tuple[int, ...]) -> Probability:
    values = tuple(level / LEVELS for level in levels)
    return values[0] if len(values) == 1 else values


def _expected(x: Tensor, levels: tuple[int, ...]) -> Tensor | None:
    """The mean of the masked x; None where it is dropped always."""
    if not any(levels):
        return None
    if set(levels) == {LEVELS}:
        return x
    probability = _probability(levels)
    return probability * x if isinstance(probability, float) else along(probability, x, x.dtype) * x


def _sampled(x: Tensor, levels: tuple[int, ...], per: Per, generator: torch.Generator) -> Tensor | None:
    """One draw of the masked x; None where it is dropped always. What is certain is not drawn."""
    if set(levels) <= {0, LEVELS}:
        return _expected(x, levels)
    return keep(x, mask(x, levels, per, generator))


def _sum(x: Tensor | None, f: Tensor | None) -> Tensor:
    if x is not None and f is not None:
        return x + f
    rest = f if x is None else x
    assert rest is not None  # the layer refuses to drop both
    return rest


def joins(noise: Noise, stages: Sequence[int]) -> list[Swapout]:
    """A layer for each residual block of a network, given the stage index of each, in order.

    Raises:
        ValueError: if a list of probabilities does not have one for each stage or block.
    """
    return [Swapout(p1, p2, noise.per, noise.coupling) for p1, p2 in noise.probabilities(stages)]


def sample_with(network: nn.Module, generator: torch.Generator | None) -> None:
    """Let every Swapout layer of `network` sample from `generator`, or compute its expectation when it is None."""
    for module in network.modules():
        if isinstance(module, Swapout):
            module.generator = generator


def probabilities(network: nn.Module) -> Sequence[tuple[Probability, Probability]]:
    """(p1, p2) of every Swapout layer, in the order of the forward pass."""
    return [(m.p1, m.p2) for m in network.modules() if isinstance(m, Swapout)]
