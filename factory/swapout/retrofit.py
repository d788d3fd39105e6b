"""Swapout for a network that exists: its residual additions are found and become Swapout layers."""

import copy
from dataclasses import dataclass

from torch import fx, nn

from factory.swapout.collapse import check_collapsible
from factory.swapout.graph import WEIGHTED, NotCollapsible, Traced, ancestors, is_sum, trace
from factory.swapout.layer import joins
from factory.swapout.schedule import Noise


@dataclass(frozen=True, slots=True)
class Addition:
    """A residual addition: its node, the skip and the branch."""

    node: fx.Node
    skip: fx.Node
    branch: fx.Node


def swapout(network: nn.Module, noise: Noise) -> fx.GraphModule:
    """Return a copy of `network`, traced, in which every residual addition is a Swapout layer `swapout_0`, ...

    A residual addition adds two tensors that come from one; the path with fewer layers with weights, the identity
    first of all, is the skip. The stage grows where the skip is no identity. Names of weights stay.

    Raises:
        NotCollapsible: if the forward pass has no fixed graph or is another in training, an addition does not tell
            its skip, or the collapse would not be exact.
        ValueError: if nothing is added, or the schedule does not fit the blocks.
    """
    network = copy.deepcopy(network)
    traced = _trace_both(network)
    found = additions(traced)
    if not found:
        raise ValueError(f"{type(network).__name__} has no residual addition: expected one tensor added to another")
    stages = traced.stages([one.skip for one in found], [one.node for one in found])
    layers = joins(noise, stages)
    for index in reversed(range(len(found))):  # from the back, because a skip may be the addition before it
        one = found[index]
        network.add_module(f"swapout_{index}", layers[index])
        with traced.graph.inserting_before(one.node):
            join = traced.graph.call_module(f"swapout_{index}", (one.skip, one.branch))
        one.node.replace_all_uses_with(join)
        traced.graph.erase_node(one.node)
    retrofitted = fx.GraphModule(network, traced.graph, type(network).__name__)
    check_collapsible(retrofitted)
    return retrofitted.train(network.training)


def additions(traced: Traced) -> list[Addition]:
    """The residual additions of a network, in order.

    Raises:
        NotCollapsible: if both paths of one have as many layers with weights.
    """
    found = []
    for node in traced.graph.nodes:
        if not is_sum(node):
            continue
        one, other = node.all_input_nodes
        known = {term: ancestors(term) for term in (one, other)}
        if not any(source.op == "placeholder" for source in known[one] & known[other]):
            continue
        weights = [_weighted(traced, known[one] - known[other]), _weighted(traced, known[other] - known[one])]
        if weights[0] == weights[1]:
            raise NotCollapsible(f"{node.name} adds two paths of {weights[0]} layers with weights: which is the skip?")
        found.append(Addition(node, one, other) if weights[0] < weights[1] else Addition(node, other, one))
    return found


def _weighted(traced: Traced, path: set[fx.Node]) -> int:
    return sum(isinstance(traced.layer(node), WEIGHTED) for node in path)


def _trace_both(network: nn.Module) -> Traced:
    """The graph, which must be one in training and in evaluation: a graph that is traced keeps no switch."""
    training = network.training
    texts = [str(trace(network.train(mode)).graph) for mode in (False, True)]
    network.train(training)
    if texts[0] != texts[1]:
        raise NotCollapsible(
            f"{type(network).__name__} has another graph in training: use layers such as nn.Dropout, not functions"
        )
    return trace(network)
