import copy
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from factory.cost.count import count
from factory.spaces.network import build
from factory.spaces.plan import Input, Plan, graph
from factory.spaces.residual import mutate, parse, plan, random_genome
from factory.swapout.collapse import collapse, stream_scales
from factory.swapout.layer import Swapout, sample_with
from factory.swapout.network import Network, ResidualBlock
from factory.swapout.schedule import Noise, Schedule


def random_plan(rng: np.random.Generator) -> Plan:
    while True:
        picture = Input(int(rng.integers(16, 30)), int(rng.integers(16, 30)), int(rng.choice((1, 3))))
        genome = random_genome(rng, picture)
        for _ in range(int(rng.integers(5))):
            genome = mutate(genome, rng, picture)
        shape = plan(genome, picture, int(rng.integers(2, 6)))
        if count(shape).macs < 2e6:  # what a test has time for
            return shape


@torch.no_grad()
def random_network(shape: Plan, rng: np.random.Generator) -> Network:
    """Random weights, batch-norm statistics and keep probabilities, different for stream and branch.

    The statistics lie around those of real activations, so that every layer has its say in the output.
    """
    torch.manual_seed(int(rng.integers(2**31)))
    network = build(shape).double()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for module in norms:
        module.weight.copy_(torch.rand_like(module.weight) + 0.5)
        module.bias.copy_(torch.randn_like(module.bias))
        module.momentum = 1.0
    network.train()(noise(shape, 4))
    for module in norms:
        assert module.running_mean is not None and module.running_var is not None
        module.running_mean.add_(torch.randn_like(module.running_mean) * module.running_var.sqrt() / 2)
        module.running_var.mul_(torch.rand_like(module.running_var) + 0.5).add_(1e-3)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.join = random_join(rng, module)
    return network.eval()


def random_join(rng: np.random.Generator, block: ResidualBlock) -> Swapout:
    """Any method, probabilities for the whole layer or for each channel."""
    channels = [m for m in block.branch if isinstance(m, nn.Conv2d)][-1].out_channels
    size = channels if rng.random() < 0.3 else 1
    one, two = (rng.uniform(0.05, 0.95, size).tolist() for _ in range(2))
    match rng.integers(6):
        case 0:
            return Swapout(one, one, "channel", "same")
        case 1:
            return Swapout(one, [1 - p for p in one], coupling="opposite")
        case 2:
            return Swapout(1.0, two, "layer")
        case 3 if block.shortcut is None:
            return Swapout(*[(0.0, two), (one, 0.0)][int(rng.integers(2))])
        case _:
            return Swapout(one, two, rng.choice(("unit", "sample")))


def noise(shape: Plan, count: int) -> Tensor:
    picture = shape.input
    return torch.randn(count, picture.channels, picture.height, picture.width, dtype=torch.float64)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1))
@torch.no_grad()
def test_the_collapsed_network_computes_the_expectation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = random_plan(rng)
    network = random_network(shape, rng)
    before = copy.deepcopy(network.state_dict())
    plain = collapse(network)
    x = noise(shape, 3)
    expected = network(x)
    assert expected.std(0).max() > 1e-6 * expected.abs().max()  # the pictures have their say
    assert (plain(x) - expected).abs().max() / expected.abs().max() < 1e-10
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())  # left as it was


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
@torch.no_grad()
def test_the_collapsed_network_has_the_layers_of_a_plain_one_and_bare_additions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = random_plan(rng)
    network = random_network(shape, rng)
    for block in network.blocks:
        if isinstance(block, ResidualBlock):  # a join that never keeps one of its terms is no addition
            block.join = Swapout(float(rng.uniform(0.05, 1)), float(rng.uniform(0.05, 1)))
    plain = collapse(network)
    leaves = Counter(
        next(kind for kind in (nn.Conv2d, nn.ReLU, nn.Linear, Swapout, nn.Identity) if isinstance(m, kind))
        for m in plain.modules()
        if not list(m.children())
    )
    kinds = Counter(op.kind for op in graph(shape))
    wanted = {nn.Conv2d: kinds["conv"], nn.ReLU: kinds["relu"], nn.Linear: 1, Swapout: kinds["add"]}
    assert {kind: leaves[kind] for kind in wanted} == wanted
    for module in plain.modules():
        if isinstance(module, Swapout):
            x, f = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64)
            assert torch.equal(module(x, f), x + f)
    reference = build(shape, norm=False)
    assert {n: t.shape for n, t in plain.state_dict().items()} == {
        n: t.shape for n, t in reference.state_dict().items()
    }
    reference.double().load_state_dict(plain.state_dict())
    image = noise(shape, 2)
    assert torch.equal(reference.eval()(image), plain(image))


EXAMPLE = plan(parse("stem_w8_s1-basic_w8_d3_k3_e1_s1-mb_w8_d3_k3_e2_s1-bottle_w16_d2_k3_e2_s2"), Input(16, 16, 1), 3)


@torch.no_grad()
def test_the_expectation_of_a_linear_network_is_the_mean_of_its_samples() -> None:
    """Without activations the mean over masks is the expectation: sampling, expectation and collapse use one p."""
    rng = np.random.default_rng(0)

    def chain() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1))

    torch.manual_seed(0)
    blocks: list[nn.Module] = [
        ResidualBlock(chain(), None, Swapout(float(rng.uniform(0.3, 1)), float(rng.uniform(0.3, 1))), nn.Identity())
        for _ in range(3)
    ]
    network = Network(nn.Sequential(nn.Conv2d(1, 4, 3)), blocks, nn.Linear(4, 2)).double().eval()
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    sample_with(network, torch.Generator().manual_seed(0))
    samples = torch.cat([network(x.expand(500, -1, -1, -1)) for _ in range(40)])
    sample_with(network, None)
    sigma = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - network(x)[0]).abs() < 5 * sigma).all()
    torch.testing.assert_close(collapse(network)(x), network(x), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_another_keep_probability_is_another_collapsed_network() -> None:
    network = random_network(EXAMPLE, np.random.default_rng(0))
    x = noise(EXAMPLE, 2)
    before = collapse(network)(x)
    last = [m for m in network.modules() if isinstance(m, ResidualBlock)][-1]
    last.join = Swapout(0.5, 0.125)
    after = collapse(network)(x)
    assert (after - before).abs().max() > 1e-2 * before.abs().max()
    torch.testing.assert_close(after, network(x), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_linear_schedule_over_many_blocks_collapses() -> None:
    shape = plan(parse("stem_w8_s1-basic_w8_d4_k3_e1_s1" + "-mb_w8_d4_k3_e2_s1" * 3), Input(8, 8, 1), 2)
    network = build(shape, Noise.swapout(Schedule.linear(1.0, 0.1))).double().eval()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    expected = network(x)
    assert (collapse(network)(x) - expected).abs().max() / expected.abs().max() < 1e-10


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.ReLU6(), nn.GELU(), nn.Hardswish(), nn.LeakyReLU()])
def test_an_activation_of_the_stream_that_does_not_scale_is_refused(activation: nn.Module) -> None:
    branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    with pytest.raises(TypeError, match=f"{type(activation).__name__} on the stream does not collapse: use ReLU"):
        ResidualBlock(branch, None, Swapout(0.5, 0.5), activation)


def test_what_cannot_be_folded_is_refused() -> None:
    head, stem = nn.Linear(4, 2), nn.Sequential(nn.Conv2d(1, 4, 3))
    loose = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4))
    with pytest.raises(TypeError, match="a batch-norm that does not follow a convolution does not fold"):
        collapse(Network(stem, [loose], head))


@torch.no_grad()
def test_a_branch_that_is_never_kept_adds_nothing_in_the_plain_network_either() -> None:
    shape = plan(parse("stem_w8_s1-basic_w8_d2_k3_e1_s1-mb_w8_d2_k3_e2_s1"), Input(8, 8, 1), 2)
    network = build(shape, Noise.skip_forward(Schedule.linear(1.0, 0.5))).double().eval()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    plain = collapse(network)
    reference = build(shape, norm=False).double().eval()
    reference.load_state_dict(plain.state_dict())
    for found in (plain, reference):
        torch.testing.assert_close(found(x), network(x), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_the_scale_of_the_stream_is_the_product_of_p1_and_starts_again_behind_a_projection() -> None:
    shape = plan(parse("stem_w8_s1-basic_w8_d4_k3_e1_s1-basic_w16_d3_k3_e1_s2"), Input(8, 8, 1), 2)
    by_block = (0.5, 0.25, 0.5, 0.5, 0.25, 0.75, 0.5)
    network = build(shape, Noise.swapout(Schedule.per_block(by_block), Schedule.constant(0.5)))
    np.testing.assert_allclose(stream_scales(network), [(0.5**5, 0.5), (0.375, 1.0)], rtol=1e-12)


def test_a_projection_is_the_skip_of_a_block_that_changes_shape() -> None:
    shortcut = nn.Sequential(nn.Conv2d(4, 6, 1, stride=2))
    branch = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1))
    block = ResidualBlock(branch, shortcut, Swapout(1.0, 1.0), nn.ReLU())
    x: Tensor = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), (shortcut(x) + branch(x)).clamp(min=0))
