import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from factory.score.swap import SizeRegulariser, SwapScore, distinct, pack, swap_score
from factory.spaces.network import build
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan

GENOMES = (
    "stem_w8_s1-basic_w8_d2_k3_e1_s1-mb_w8_d2_k3_e2_s1-bottle_w16_d1_k3_e2_s2",
    "stem_w16_s2-mb_w16_d1_k5_e2_s2-mb_w24_d2_k3_e3_s1",
    "stem_w8_s4-bottle_w8_d2_k3_e2_s1-basic_w16_d1_k5_e2_s2",
)


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 70),
    st.lists(st.integers(1, 120), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
)
def test_the_packed_count_is_that_of_the_patterns_themselves(
    samples: int, sizes: list[int], seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    layers = [rng.random((samples, size)) < share for size in sizes]
    layers[-1][:, : sizes[0]] = layers[0][:, : sizes[-1]]  # the same patterns in two layers count once
    patterns = {tuple(column) for layer in layers for column in layer.T}
    assert distinct([pack(layer) for layer in layers]) == len(patterns)


def images(seed: int = 0, samples: int = 12) -> Tensor:
    return torch.randn(samples, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def builder(genome: str) -> Callable[[], nn.Module]:
    return lambda: build(plan(parse(genome), Input(16, 16, 1), 3))


def by_definition(network: nn.Module, x: Tensor, seed: int) -> tuple[int, int]:
    """Distinct activation patterns and number of activations of one initialisation, from the paper's definition."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data.copy_(torch.normal(0.0, 1.0, module.weight.shape, generator=generator))
            if module.bias is not None:
                module.bias.data.fill_(0)
    values: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _m, _i, out: values.append(out.detach().reshape(len(out), -1)))
    network.train()
    with torch.no_grad():
        network(x)
    signs = torch.sign(torch.cat(values, dim=1)).T  # (V, S)
    return len(torch.unique(signs, dim=0)), len(signs)


@pytest.mark.parametrize("genome", GENOMES)
@pytest.mark.parametrize("samples", [5, 12, 33])
def test_the_score_is_the_papers(genome: str, samples: int) -> None:
    x = images(samples=samples)
    score = swap_score(builder(genome), x, seed=7, repeats=3)
    wanted = [by_definition(builder(genome)(), x, 7000 + repeat) for repeat in range(3)]
    assert score is not None
    assert score.per_init == tuple(count for count, _ in wanted)
    assert score.positions == wanted[0][1]
    assert score.swap == pytest.approx(sum(score.per_init) / 3)
    assert score.saturation == pytest.approx(score.swap / min(score.positions, 2**samples))


def test_the_score_depends_on_its_arguments_alone() -> None:
    one = swap_score(builder(GENOMES[0]), images(), seed=1, repeats=2)
    torch.manual_seed(99)
    torch.randn(1000)
    assert swap_score(builder(GENOMES[0]), images(), seed=1, repeats=2) == one
    assert swap_score(builder(GENOMES[0]), images(), seed=2, repeats=2) != one
    assert swap_score(builder(GENOMES[0]), images(1), seed=1, repeats=2) != one


def test_more_repeats_keep_the_first_ones() -> None:
    few, more = (swap_score(builder(GENOMES[1]), images(), seed=3, repeats=repeats) for repeats in (2, 4))
    assert few is not None and more is not None
    assert more.per_init[:2] == few.per_init


class Broken(nn.Module):
    """Fails after its first ReLU, or spoils its output."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.relu, self.spoil = nn.Conv2d(1, 4, 3), nn.ReLU(), spoil

    def forward(self, x: Tensor) -> Tensor:
        return self.spoil(self.relu(self.conv(x)).mean((2, 3)))


def fails(_: Tensor) -> Tensor:
    raise RuntimeError("out of memory")


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_no_hook_stays_behind_even_when_the_network_fails() -> None:
    network = builder(GENOMES[0])()
    assert swap_score(lambda: network, images(), seed=0, repeats=2) is not None
    assert hooks(network) == 0
    broken = Broken(fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        swap_score(lambda: broken, images(), seed=0, repeats=1)
    assert hooks(broken) == 0


@pytest.mark.parametrize(
    "spoil",
    [lambda x: x * 0, lambda x: x * float("nan"), lambda x: x / 0, lambda x: x[:1].expand(len(x), -1)],
    ids=["zero", "nan", "infinite", "same for all"],
)
def test_a_degenerate_network_has_no_score(spoil: Callable[[Tensor], Tensor]) -> None:
    assert swap_score(lambda: Broken(spoil), images(), seed=0, repeats=2) is None
    assert swap_score(lambda: Broken(lambda x: x), images(), seed=0, repeats=2) is not None


def test_images_that_are_no_numbers_or_all_black_have_no_score() -> None:
    spoiled = images()
    spoiled[3, 0, 2, 2] = float("nan")
    for x in (spoiled, torch.zeros(12, 1, 16, 16)):
        assert swap_score(builder(GENOMES[0]), x, seed=0, repeats=1) is None


def test_a_network_of_one_pattern_for_each_image_is_counted_by_hand() -> None:
    class Steps(nn.Module):
        """Three ReLUs whose patterns over four images are 0111, 0011, 0011: two distinct."""

        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            level = x.mean((1, 2, 3))[:, None]
            self.relu(level - 2)
            return self.relu(torch.cat([level - 1, level - 2], dim=1))

    x = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None, None].expand(4, 1, 2, 2)
    assert swap_score(Steps, x, seed=0, repeats=1) == SwapScore(2.0, (2,), 3, 2 / 3)


def test_the_regulariser_is_a_bell_around_mu_in_thousands_of_parameters() -> None:
    bell = SizeRegulariser(mu=40.0, sigma=400.0)
    assert bell.factor(40_000) == 1.0
    assert bell.factor(60_000) == bell.factor(20_000) == pytest.approx(math.exp(-1))
    assert bell.factor(45_000) == pytest.approx(math.exp(-((45 - 40) ** 2) / 400))
    assert bell.factor(10**9) == 0.0
