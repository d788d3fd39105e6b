import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from factory.cost.count import count
from factory.spaces.network import build
from factory.spaces.plan import Input
from factory.spaces.residual import mutate, plan, random_genome


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_parameters_and_macs_are_those_that_torch_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = Input(int(rng.integers(16, 60)), int(rng.integers(16, 60)), int(rng.choice((1, 3))))
    shape = plan(mutate(random_genome(rng, picture), rng, picture), picture, int(rng.integers(2, 9)))
    network = build(shape, norm=False).to("meta")
    cost = count(shape)
    assert cost.params == sum(p.numel() for p in network.parameters())
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, picture.channels, picture.height, picture.width, device="meta"))
    assert 2 * cost.macs == counter.get_total_flops()


def test_a_small_network_is_counted_by_hand() -> None:
    from factory.spaces.plan import Block, Conv, Plan

    stem = Conv(1, 8, 3, 2, 1, relu=True)
    branch = (Conv(8, 16, 1, 1, 1, relu=True), Conv(16, 16, 3, 2, 16, relu=True), Conv(16, 24, 1, 1, 1, relu=False))
    shape = Plan(Input(32, 20, 1), stem, (Block(branch, False, None, False),), 5)
    cost = count(shape)
    assert cost.params == (8 * 9 + 8) + (8 * 16 + 16) + (16 * 9 + 16) + (16 * 24 + 24) + (24 * 5 + 5)
    assert cost.macs == 160 * 8 * 9 + 160 * 8 * 16 + 40 * 16 * 9 + 40 * 16 * 24 + 24 * 5
    assert cost.size_mb == pytest.approx(4 * cost.params / 1e6, abs=5e-3)
    assert cost.late_macs == 40 * 16 * 9 + 40 * 16 * 24  # 8 x 5 pixels are a sixteenth of 32 x 20
    assert cost.positions == 160 * 8 + 160 * 16 + 40 * 16
    assert cost.narrowest == 40 * 16
    assert cost.convolutions == 4
    assert cost.width == pytest.approx((8 * 16 * 16 * 24) ** (1 / 4))
