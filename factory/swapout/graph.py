"""A network as a torch.fx graph whose nodes are layers and functions, and what the collapse asks of such a graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from factory.swapout.layer import Swapout


class NotCollapsible(ValueError):  # noqa: N818
    """The expectation of the network is not one plain network; the text says why."""


# Functions and methods of torch by name, and layers, with phi(c x) = c phi(x) for every c > 0, one a channel as well.
ELEMENTWISE: Final = frozenset({"relu", "leaky_relu", "prelu", "dropout", "dropout2d", "contiguous", "clone"})
POOLING: Final = frozenset(
    f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)
)
ELEMENTWISE_LAYERS: Final = frozenset(
    {nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d}
)
POOLING_LAYERS: Final = frozenset(
    {getattr(nn, f"{kind}Pool{n}d") for kind in ("Max", "Avg", "AdaptiveAvg", "AdaptiveMax") for n in (1, 2, 3)}
    | {nn.Upsample, nn.ZeroPad2d}
)
SUMS: Final = frozenset({"add", "iadd"})
WEIGHTED: Final = (_ConvNd, nn.Linear, _BatchNorm, nn.GroupNorm, nn.LayerNorm)


class _Tracer(fx.Tracer):
    """Layers of torch, whatever inherits from a weighted one, and Swapout stay whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*WEIGHTED, Swapout)) or super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True, slots=True)
class Traced:
    """A network and the graph of its forward pass."""

    network: nn.Module
    graph: fx.Graph

    def layer(self, node: fx.Node) -> nn.Module | None:
        """The layer that a node calls; None if it calls none."""
        return self.network.get_submodule(str(node.target)) if node.op == "call_module" else None

    def is_elementwise(self, node: fx.Node) -> bool:
        """Whether the node passes a positive factor on and keeps the shape."""
        return type(self.layer(node)) in ELEMENTWISE_LAYERS or function(node) in ELEMENTWISE

    def is_homogeneous(self, node: fx.Node) -> bool:
        """Whether the node passes a positive factor on, one for each channel too."""
        return self.is_elementwise(node) or type(self.layer(node)) in POOLING_LAYERS or function(node) in POOLING

    @property
    def joins(self) -> list[fx.Node]:
        """The calls of Swapout layers, in order."""
        return [node for node in self.graph.nodes if isinstance(self.layer(node), Swapout)]

    def stages(self, skips: Sequence[fx.Node], joins: Sequence[fx.Node]) -> list[int]:
        """Stage of each join: it grows where the skip is more than the stream that left the join before.

        That is a projection, a pooling shortcut, or the output of a block that has no skip.
        """
        found: list[int] = []
        for index, skip in enumerate(skips):
            source = skip
            while self.is_elementwise(source):
                source = source.all_input_nodes[0]
            found.append(0 if index == 0 else found[-1] + (source is not joins[index - 1]))
        return found


def trace(network: nn.Module) -> Traced:
    """The graph of `network` in its present mode, training or evaluation.

    Raises:
        NotCollapsible: if the forward pass has no fixed graph, or keeps a tensor that is then changed in place.
    """
    try:
        graph = _Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError) as error:
        raise NotCollapsible(f"{type(network).__name__} has no fixed graph: {error}") from error
    for node in graph.nodes:
        if node.op == "call_method" and node.target.endswith("_") and not node.users:
            raise NotCollapsible(f"{node.name} works in place and what it returns is not used: use that")
    return Traced(network, graph)


def function(node: fx.Node) -> str:
    """The name of the function or method that a node calls, without the mark of working in place; else empty."""
    if node.op not in {"call_function", "call_method"}:
        return ""
    return str(getattr(node.target, "__name__", node.target)).removesuffix("_")


def is_sum(node: fx.Node) -> bool:
    """Whether the node adds two tensors, without a factor of its own."""
    return function(node) in SUMS and len(node.args) == len(node.all_input_nodes) == 2 and not node.kwargs


def ancestors(node: fx.Node) -> set[fx.Node]:
    """The node and all that it is computed from."""
    found, todo = {node}, [node]
    while todo:
        for source in todo.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                todo.append(source)
    return found
