"""Plans against torch: the graph of a plan, walked by hand with the network's own weights, is the network."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from factory.cost.count import count
from factory.spaces.network import build
from factory.spaces.plan import Input, Op, Plan, convolutions, graph
from factory.spaces.residual import mutate, parse, plan, random_genome
from factory.swapout.layer import Swapout, probabilities
from factory.swapout.schedule import Noise, Schedule

SEEDS = st.integers(0, 2**32 - 1)
EXAMPLE = parse("stem_w8_s1-basic_w8_d2_k3_e1_s1-mb_w8_d2_k3_e2_s1-bottle_w16_d1_k3_e2_s2")


def random_plan(seed: int) -> Plan:
    rng = np.random.default_rng(seed)
    picture = Input(int(rng.integers(16, 34)), int(rng.integers(16, 34)), int(rng.choice((1, 3))))
    genome = random_genome(rng, picture)
    for _ in range(int(rng.integers(4))):  # random genomes do not shrink and rarely keep their size; mutated ones may
        genome = mutate(genome, rng, picture)
    shape = plan(genome, picture, int(rng.integers(2, 8)))
    return shape if count(shape).macs < 2e6 else random_plan(seed + 1)  # what a test has time for


def by_hand(op: Op, inputs: list[Tensor], convs: Iterator[nn.Conv2d], head: nn.Linear) -> Tensor:
    match op.kind:
        case "conv":
            layer = next(convs)
            pad = layer.kernel_size[0] // 2
            return functional.conv2d(inputs[0], layer.weight, layer.bias, layer.stride, pad, 1, layer.groups)
        case "relu":
            return inputs[0].clamp(min=0)
        case "add":
            return inputs[0] + inputs[1]
        case "mean":
            return inputs[0].flatten(2).mean(2)
        case "gemm":
            return inputs[0] @ head.weight.T + head.bias
    raise AssertionError(op.kind)


@settings(deadline=None, max_examples=30)
@given(SEEDS)
@torch.no_grad()
def test_the_graph_walked_by_hand_is_the_network_and_every_shape_is_right(seed: int) -> None:
    shape = random_plan(seed)
    torch.manual_seed(seed % 2**31)
    network = build(shape, norm=False).double().eval()
    convs = iter([m for m in network.modules() if isinstance(m, nn.Conv2d)])
    image = torch.randn(2, shape.input.channels, shape.input.height, shape.input.width, dtype=torch.float64)
    values = {-1: image}
    for index, op in enumerate(graph(shape)):
        assert max(op.inputs) < index
        values[index] = by_hand(op, [values[source] for source in op.inputs], convs, network.head)
        rows = values[index]
        found = tuple(rows.shape[1:]) if rows.ndim == 4 else (rows.shape[1], 1, 1)
        assert found == (op.channels, op.height, op.width)
    assert next(convs, None) is None
    torch.testing.assert_close(values[index], network(image), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_the_network_has_the_convolutions_of_the_plan(seed: int) -> None:
    shape = random_plan(seed)
    for norm in (True, False):
        network = build(shape, norm=norm)
        found = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        wanted = [
            (c.channels_in, c.channels_out, (c.kernel,) * 2, (c.stride,) * 2, c.groups) for c in convolutions(shape)
        ]
        assert [(m.in_channels, m.out_channels, m.kernel_size, m.stride, m.groups) for m in found] == wanted
        assert all((m.bias is None) == norm for m in found)
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert [m.num_features for m in norms] == ([m.out_channels for m in found] if norm else [])
        assert len([m for m in network.modules() if isinstance(m, Swapout)]) == shape.residual_blocks


def test_keep_probabilities_go_to_the_residual_blocks_in_order() -> None:
    shape = plan(EXAMPLE, Input(16, 16, 1), 2)
    assert len(shape.blocks) == shape.residual_blocks == 5
    network = build(shape, Noise.swapout(Schedule.linear(1.0, 0.5)))
    assert probabilities(network) == [(p, p) for p in (1.0, 0.875, 0.75, 0.625, 0.5)]
    assert probabilities(build(shape)) == [(1.0, 1.0)] * 5


def test_the_stages_of_a_genome_are_those_of_its_residual_blocks() -> None:
    shape = plan(EXAMPLE, Input(16, 16, 1), 2)
    assert shape.stages == (0, 0, 1, 1, 2)
    by_stage = build(shape, Noise.swapout(Schedule.per_stage((1.0, 0.75, 0.5))))
    assert probabilities(by_stage) == [(p, p) for p in (1.0, 1.0, 0.75, 0.75, 0.5)]
    first_has_no_skip = parse("stem_w8_s1-basic_w8_d1_k3_e1_s1-mb_w16_d1_k3_e2_s2-mb_w16_d2_k3_e2_s1")
    assert plan(first_has_no_skip, Input(16, 16, 1), 2).stages == (0, 2, 2)


def test_the_granularity_of_the_noise_is_that_of_every_layer() -> None:
    network = build(plan(EXAMPLE, Input(16, 16, 1), 2), Noise.dropout(Schedule.constant(0.5), "channel"))
    layers = [m for m in network.modules() if isinstance(m, Swapout)]
    assert {(layer.per, layer.coupling) for layer in layers} == {("channel", "same")}


@pytest.mark.parametrize("keep", [(), (1.0,) * 4, (1.0,) * 6])
def test_a_wrong_number_of_probabilities_is_refused(keep: tuple[float, ...]) -> None:
    said = re.escape(f"5 residual blocks: expected 5 values, found {len(keep)}")
    with pytest.raises(ValueError, match=said):
        build(plan(EXAMPLE, Input(16, 16, 1), 2), Noise.swapout(Schedule.per_block(keep)))
