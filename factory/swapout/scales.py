"""The scales of a network in expectation mode: every tensor x is s * u, and u is what the collapsed network computes.

s is one number, or one for each channel. It runs along the graph from 1 at the input; layers with weights take it up,
positively homogeneous operations pass it on. Where a join adds p1 * s_x * u_x and p2 * s_f * u_f the two factors must
agree, so that the addition is bare and its scale is that factor. They agree once the last layer with weights of the
branch gives p2 * s_f / (p1 * s_x) times its output; where the skip has such a layer too, both give their own factor
and the scale starts again at 1. Giving c times its output sets the scale behind a layer to 1 / c, which then runs on
like any other, through the gates that read the branch as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

from factory.swapout.absorb import check_absorbs, gives_scaled, reads_scaled
from factory.swapout.graph import NotCollapsible, Traced, ancestors, function, is_sum
from factory.swapout.layer import Probability, Swapout

ONE: Final = torch.ones((), dtype=torch.float64)
PRODUCTS: Final = frozenset({"mul", "imul"})
RESHAPES: Final = frozenset(
    {"flatten", "view", "reshape", "mean", "sum", "squeeze", "unsqueeze", "permute", "transpose", "expand", "expand_as"}
    | {"interpolate", "chunk", "split"}
)
QUESTIONS: Final = frozenset({"size", "dim", "numel", "new_zeros", "zeros_like"})
ATTRIBUTES: Final = frozenset({"shape", "ndim", "device", "dtype"})


@dataclass(frozen=True, slots=True)
class Change:
    """What a layer takes up: the scale of its input, and the factor of its output."""

    scale: Tensor
    factor: Tensor


@dataclass(frozen=True, slots=True)
class Scales:
    """The scale of every node, and the change of every layer that has one, by its name in the network."""

    of: dict[fx.Node, Tensor]
    changes: dict[str, Change]


def solve(traced: Traced) -> Scales:
    """Find the scales of `traced`, a network with Swapout layers.

    Raises:
        NotCollapsible: if there are none; in one sentence, why.
    """
    factors: dict[fx.Node, Tensor] = {}
    while True:
        walk = _Walk(traced, factors)
        if walk.run():
            return Scales(walk.scales, _changes(walk))
        twice = [node for node in walk.wanted if node in factors]
        if twice:
            raise NotCollapsible(f"{twice[0].target} would have to give its output at two scales")
        factors |= walk.wanted


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two scales are one, up to rounding."""
    return bool(torch.isclose(a, b, rtol=1e-12, atol=0).all())


class _Walk:
    """One pass along the graph; `wanted` are the factors that its first join with two scales asks for."""

    def __init__(self, traced: Traced, factors: dict[fx.Node, Tensor]) -> None:
        self.traced, self.factors = traced, factors
        self.scales: dict[fx.Node, Tensor] = {}
        self.inputs: dict[fx.Node, Tensor] = {}
        self.wanted: dict[fx.Node, Tensor] = {}

    def run(self) -> bool:
        for node in self.traced.graph.nodes:
            self.scales[node] = self.scale(node)
            if self.wanted:
                return False
        return True

    def scale(self, node: fx.Node) -> Tensor:
        layer = self.traced.layer(node)
        if isinstance(layer, Swapout):
            return self.join(node, node.args, (_tensor(layer.p1), _tensor(layer.p2)))
        if reads_scaled(layer):
            self.inputs[node] = self.scales[node.all_input_nodes[0]]
            return 1 / self.factors.get(node, ONE)
        if self.traced.is_homogeneous(node) or (isinstance(layer, nn.Flatten) and layer.start_dim == 1):
            return self.scales[node.all_input_nodes[0]]
        if is_sum(node):
            return self.join(node, node.args, (ONE, ONE))
        return self.unscaled(node) if layer is not None else self.function(node, function(node))

    def is_one(self, node: fx.Node) -> bool:
        return same(self.scales[node], ONE)

    def unscaled(self, node: fx.Node) -> Tensor:
        """An operation of which nothing is known: it may only read what has no scale."""
        if all(self.is_one(source) for source in node.all_input_nodes):
            return ONE
        layer = self.traced.layer(node)
        what = type(layer).__name__ if layer is not None else function(node) or str(node.op)
        raise NotCollapsible(f"{node.name}: {what} does not pass on the scale of the stream it reads")

    def function(self, node: fx.Node, name: str) -> Tensor:
        """A function or method of torch, or the input or output of the network."""
        if name in QUESTIONS or (name == "getattr" and node.args[1] in ATTRIBUTES):
            return ONE
        inputs = [self.scales[one] for one in node.args if isinstance(one, fx.Node)]
        if name in PRODUCTS and inputs:
            return torch.stack([one + 0 * sum(inputs) for one in inputs]).prod(0)
        if name == "cat" and (found := self.joined(node.all_input_nodes)) is not None:
            return found
        others = [] if name == "expand_as" else node.all_input_nodes[1:]
        if node.all_input_nodes and all(map(self.is_one, others)) and self.passes(node, name):
            return _reshaped(inputs[0], node, name)
        return self.unscaled(node)

    def joined(self, parts: list[fx.Node]) -> Tensor | None:
        """The scale of a concatenation of parts of one scale."""
        scales = [self.scales[part] for part in parts]
        return scales[0] if all(one.ndim == 0 and same(one, scales[0]) for one in scales) else None

    def passes(self, node: fx.Node, name: str) -> bool:
        """Whether a function of one tensor is linear and leaves the channels where a scale of each can follow them."""
        flat = self.scales[node.all_input_nodes[0]].ndim == 0
        match name:
            case "pad":
                return _pads_zeros(node)
            case "getitem":
                return flat or _slices_channels(node)
            case "truediv" | "div":
                return isinstance(node.args[0], fx.Node) and not node.kwargs
            case _:
                return name in RESHAPES and (flat or _keeps_channels(node, name))

    def join(self, node: fx.Node, terms: Sequence[Any], probabilities: tuple[Tensor, Tensor]) -> Tensor:
        """The scale behind an addition of `terms`; what it needs of its layers goes into `wanted`."""
        kept = [(term, p * self.scales[term]) for term, p in zip(terms, probabilities, strict=True) if bool(p.any())]
        known = {term: set[fx.Node]().union(*(ancestors(one) for one in terms if one is not term)) for term in terms}
        sources = [self.source(term, known[term]) for term, _ in kept]
        target = next((c for source, (_, c) in zip(sources, kept, strict=True) if source is None), ONE)
        for source, (_, c) in zip(sources, kept, strict=True):
            if same(c, target):
                continue
            if source is None:
                raise NotCollapsible(
                    f"{node.name} adds two paths of different scale, and neither ends in weights of its own"
                )
            self.wanted[source] = (c / target) * self.factors.get(source, ONE)
        return target

    def source(self, node: fx.Node, known: set[fx.Node]) -> fx.Node | None:
        """The layer with weights that a path ends in; None if there is none, or the other path reads it too."""
        while node not in known:
            if gives_scaled(self.traced.layer(node)):
                return node
            if function(node) in PRODUCTS:  # a gate: its value and what it is multiplied with
                return next(filter(None, (self.source(one, known) for one in node.all_input_nodes)), None)
            if not self.traced.is_homogeneous(node):
                return None
            node = node.all_input_nodes[0]
        return None


def _tensor(probability: Probability) -> Tensor:
    return torch.tensor(probability, dtype=torch.float64)


def _pads_zeros(node: fx.Node) -> bool:
    given = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | node.kwargs
    return given.get("mode", "constant") == "constant" and not given.get("value")


def _slices_channels(node: fx.Node) -> bool:
    index = node.args[1]
    return isinstance(index, tuple) and len(index) > 1 and all(isinstance(one, slice) for one in index)


def _reshaped(scale: Tensor, node: fx.Node, name: str) -> Tensor:
    """The scale of each channel behind a function that adds, takes or keeps channels."""
    if scale.ndim and name == "getitem":
        index: Any = node.args[1]
        return scale[index[1]]
    if scale.ndim and name == "pad":  # channels of zeros have any scale
        sides: Any = node.args[1] if len(node.args) > 1 else node.kwargs["pad"]
        return nn.functional.pad(scale, tuple(sides[4:6]), value=1.0) if len(sides) > 4 else scale
    return scale


def _keeps_channels(node: fx.Node, name: str) -> bool:
    """Whether a reshape leaves the channels, or units of each side by side, in the second place."""
    rest = (*node.args[1:], *node.kwargs.values())
    match name:
        case "flatten":
            return rest == (1,)
        case "mean" | "sum":
            dims = rest[0] if rest and isinstance(rest[0], tuple | list) else rest[:1]
            return {2, 3, 4}.issuperset(dims) and len(dims) > 0
        case "view" | "reshape":
            return rest[1:] == (-1,)
        case _:
            return name == "interpolate"


def _changes(walk: _Walk) -> dict[str, Change]:
    """The change of each layer, which all its calls must agree upon."""
    changes: dict[str, Change] = {}
    for node, scale in walk.inputs.items():
        name, change = str(node.target), Change(scale, walk.factors.get(node, ONE))
        before = changes.setdefault(name, change)
        if not (same(before.scale, change.scale) and same(before.factor, change.factor)):
            raise NotCollapsible(f"{name} is used twice, at different scales")
    changes = {name: c for name, c in changes.items() if not (same(c.scale, ONE) and same(c.factor, ONE))}
    _check_own_weights(walk.traced, set(changes))
    for name, change in changes.items():
        check_absorbs(name, walk.traced.network.get_submodule(name), change.scale, change.factor)
    return changes


def _check_own_weights(traced: Traced, changed: set[str]) -> None:
    """A layer that is changed shares no weight with another, which would be changed with it."""
    owner: dict[int, str] = {}
    for name, module in traced.network.named_modules():
        for parameter in module.parameters(recurse=False):
            other = owner.setdefault(id(parameter), name)
            if other != name and {other, name} & changed:
                raise NotCollapsible(f"{other} and {name} share a weight, and the collapse would change one of them")
