"""One kernel for a Swapout join on a GPU: masks from a counter-based generator, drawn again in the backward pass.

Nothing is kept but the seed: Philox gives a counter the same four words whenever it is asked (Salmon et al., SC 2011).
A word decides one unit: its lowest byte the stream, the next the branch.
"""

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from factory.swapout.schedule import Coupling

QUARTER: Final = 256  # units that one of the four words of a counter decides, in one program
COUPLINGS: Final[dict[Coupling, int]] = {"independent": 0, "same": 1, "opposite": 2}


@triton.jit
def _keeps(word, level1, level2, coupling: tl.constexpr):
    one = (word & 0xFF) < level1
    if coupling == 0:
        two = ((word >> 8) & 0xFF) < level2
    elif coupling == 1:
        two = one
    else:
        two = (word & 0xFF) >= level1
    return one, two


@triton.jit
def _join_units(x, f, y, units, word, size, level1, level2, coupling: tl.constexpr):
    inside = units < size
    one, two = _keeps(word, level1, level2, coupling)
    stream = tl.load(x + units, mask=inside & one, other=0.0).to(tl.float32)
    branch = tl.load(f + units, mask=inside & two, other=0.0).to(tl.float32)
    tl.store(y + units, stream + branch, mask=inside)


@triton.jit
def _split_units(g, gx, gf, units, word, size, level1, level2, coupling: tl.constexpr):
    inside = units < size
    one, two = _keeps(word, level1, level2, coupling)
    gradient = tl.load(g + units, mask=inside, other=0.0).to(tl.float32)
    tl.store(gx + units, tl.where(one, gradient, 0.0), mask=inside)
    tl.store(gf + units, tl.where(two, gradient, 0.0), mask=inside)


@triton.jit
def _forward(x, f, y, seed, size, level1, level2, coupling: tl.constexpr, quarter: tl.constexpr):
    lane = tl.arange(0, quarter)
    first = tl.program_id(0) * (4 * quarter) + lane
    a, b, c, d = tl.randint4x(tl.load(seed), tl.program_id(0) * quarter + lane)
    _join_units(x, f, y, first, a, size, level1, level2, coupling)
    _join_units(x, f, y, first + quarter, b, size, level1, level2, coupling)
    _join_units(x, f, y, first + 2 * quarter, c, size, level1, level2, coupling)
    _join_units(x, f, y, first + 3 * quarter, d, size, level1, level2, coupling)


@triton.jit
def _backward(g, gx, gf, seed, size, level1, level2, coupling: tl.constexpr, quarter: tl.constexpr):
    lane = tl.arange(0, quarter)
    first = tl.program_id(0) * (4 * quarter) + lane
    a, b, c, d = tl.randint4x(tl.load(seed), tl.program_id(0) * quarter + lane)
    _split_units(g, gx, gf, first, a, size, level1, level2, coupling)
    _split_units(g, gx, gf, first + quarter, b, size, level1, level2, coupling)
    _split_units(g, gx, gf, first + 2 * quarter, c, size, level1, level2, coupling)
    _split_units(g, gx, gf, first + 3 * quarter, d, size, level1, level2, coupling)


def _laid_out_as(like: Tensor, x: Tensor) -> Tensor:
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, seed: Tensor, level1: int, level2: int, coupling: int) -> Tensor:
        y = torch.empty_like(x)  # without gaps in memory, whatever x is
        x, f = _laid_out_as(y, x), _laid_out_as(y, f)
        grid = (triton.cdiv(y.numel(), 4 * QUARTER),)
        _forward[grid](x, f, y, seed, y.numel(), level1, level2, coupling, QUARTER)
        ctx.save_for_backward(seed)
        ctx.rest = (y.stride(), level1, level2, coupling)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        (given,), (seed,) = gradients, ctx.saved_tensors
        stride, level1, level2, coupling = ctx.rest
        gx = torch.empty_strided(given.shape, stride, dtype=given.dtype, device=given.device)
        gf, gradient = torch.empty_like(gx), _laid_out_as(gx, given)
        grid = (triton.cdiv(gx.numel(), 4 * QUARTER),)
        _backward[grid](gradient, gx, gf, seed, gx.numel(), level1, level2, coupling, QUARTER)
        return gx, gf, None, None, None, None


def join(x: Tensor, f: Tensor, levels: tuple[int, int], coupling: Coupling, generator: torch.Generator) -> Tensor:
    """T1 * x + T2 * f with a mask a unit, kept with probabilities levels / 256.

    Args:
        x: the stream, of at most 2^31 - 1024 units; f has its shape and dtype.
        f: the branch.
        levels: of T1 and T2.
        coupling: how the two masks hang together; only "independent" reads the second level.
        generator: of the device of x; one seed is drawn from it.
    """
    seed = torch.empty((), dtype=torch.int64, device=x.device).random_(generator=generator)
    joined: Tensor = _Join.apply(x, f, seed, *levels, COUPLINGS[coupling])
    return joined
