"""The exact collapse: a trained Swapout network in expectation mode becomes one plain network.

In expectation mode a block computes x' = p1 x + p2 F(x). Write x = s u: then u' = u + (p2 / s') F(s u) with s' = p1 s,
a bare addition; p2 / s' goes into the last layer of F that has weights, and s into the first of every reader of the
stream. `factory.swapout.scales` finds the scales on the graph of any network. Only E[T] enters, so masks of any
granularity and coupling give the same network.
"""

import copy
from typing import TypeVar

import torch
from torch import nn

from factory.swapout.absorb import absorb_input, absorb_output
from factory.swapout.graph import NotCollapsible, trace
from factory.swapout.layer import Swapout, sample_with
from factory.swapout.network import Network, fold_norms
from factory.swapout.scales import solve

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


def check_collapsible(network: nn.Module) -> None:
    """Walk the graph of a network with Swapout layers as the collapse does, and change nothing; weights do not matter.

    Raises:
        NotCollapsible: in one sentence, why its expectation is not one plain network.
    """
    solve(trace(network))


def stream_scales(network: nn.Module) -> list[tuple[float, float]]:
    """Smallest and largest scale s of the stream behind the Swapout layers of each stage, in order.

    The collapsed network carries u = x / s: in float16 a scale below 1e-3 brings activations near the largest number.

    Raises:
        NotCollapsible: if the network does not collapse.
    """
    traced = trace(network)
    scales, joins = solve(traced), traced.joins
    skips = [join.all_input_nodes[0] for join in joins]
    found: dict[int, list[torch.Tensor]] = {}
    for stage, join in zip(traced.stages(skips, joins), joins, strict=True):
        found.setdefault(stage, []).extend(scales.of[join].flatten())
    return [(float(min(values)), float(max(values))) for values in found.values()]


def _bare(layer: Swapout) -> Swapout:
    """The addition that is left; where a term is never kept, the other term alone."""
    kept = [any(p) if isinstance(p, tuple) else p > 0 for p in (layer.p1, layer.p2)]
    return Swapout(float(kept[0]), float(kept[1]))


@torch.no_grad()
def collapse(network: AnyNetwork) -> AnyNetwork:
    """Return a plain copy of `network`: the same class, other weights, bare additions and no scale.

    Works in float64, in evaluation mode, and returns float64 weights; the outputs equal those of
    `network.double().eval()` in expectation mode up to rounding. The input is left as it is. The batch-norms of a
    `Network` are folded into its convolutions; those of any other network stay.

    Raises:
        NotCollapsible: in one sentence, why the expectation is not one plain network.
    """
    plain = copy.deepcopy(network).double().eval()
    sample_with(plain, None)
    for name, change in solve(trace(plain)).changes.items():
        layer = plain.get_submodule(name)
        absorb_input(layer, change.scale)
        absorb_output(layer, change.factor)
    for name, module in list(plain.named_modules()):
        if isinstance(module, Swapout):
            plain.set_submodule(name, _bare(module))
    if isinstance(plain, Network):
        fold_norms(plain)
    return plain


__all__ = ["NotCollapsible", "check_collapsible", "collapse", "stream_scales"]
