from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from factory.score.protocol import FACTORY, PAPER, ScoreProtocol
from factory.score.stack import UnscorableError
from factory.score.swap import SwapScore, swap_score
from factory.spaces.catalogue import SPACES
from factory.spaces.network import build
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan

GENOMES = (
    "stem_w8_s1-basic_w8_d2_k3_e1_s1-mb_w8_d2_k3_e2_s1-bottle_w16_d1_k3_e2_s2",
    "stem_w16_s2-mb_w16_d1_k5_e2_s2-mb_w24_d2_k3_e3_s1",
    "stem_w8_s4-bottle_w8_d2_k3_e2_s1-basic_w16_d1_k5_e2_s2",
)


def images(seed: int = 0, samples: int = 12) -> Tensor:
    return torch.randn(samples, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def builder(genome: str) -> Callable[[], nn.Module]:
    return lambda: build(plan(parse(genome), Input(16, 16, 1), 3))


def protocol(samples: int = 12, repeats: int = 1) -> ScoreProtocol:
    return replace(FACTORY, samples=samples, repeats=repeats)


def by_definition(network: nn.Module, x: Tensor, seed: int, settings: ScoreProtocol) -> tuple[int, int]:
    """Distinct activation patterns and number of activations of one initialisation, from the paper's definition."""
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    flat = torch.randn(sum(m.weight.numel() for m in layers), generator=torch.Generator().manual_seed(seed))
    for layer, piece in zip(layers, flat.split([m.weight.numel() for m in layers]), strict=True):
        gain = (2 / layer.weight[0].numel()) ** 0.5 if settings.initialisation == "kaiming" else 1.0
        layer.weight.data.copy_(piece.view_as(layer.weight) * gain)
        if layer.bias is not None:
            layer.bias.data.zero_()
    values: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _m, _i, out: values.append(out.detach().reshape(len(out), -1)))
    network.train(settings.batch_norm == "batch").to(x.dtype)
    with torch.no_grad():
        network(x)
    signs = torch.sign(torch.cat(values, dim=1)).T  # (V, S)
    return len({row.tobytes() for row in (signs > 0).numpy()}), len(signs)


def check_against_the_definition(
    build: Callable[[], nn.Module], x: Tensor, settings: ScoreProtocol, seed: int = 7
) -> None:
    """In float64, where no value lies so near to zero that the order of a sum decides its sign."""
    score = swap_score(build, x.double(), seed, settings)
    wanted = [by_definition(build().double(), x.double(), seed * 1000 + r, settings) for r in range(settings.repeats)]
    assert score is not None
    assert score.per_init == tuple(count for count, _ in wanted)
    assert score.positions == wanted[0][1]
    assert score.swap == pytest.approx(sum(score.per_init) / settings.repeats)
    assert score.saturation == pytest.approx(score.swap / min(score.positions, 2 ** len(x)))


@pytest.mark.parametrize("genome", GENOMES)
@pytest.mark.parametrize("samples", [5, 12, 33, 65])
def test_the_score_is_the_papers(genome: str, samples: int) -> None:
    check_against_the_definition(builder(genome), images(samples=samples), protocol(samples, 3))


@pytest.mark.parametrize("space", [name for name in SPACES if name != "residual"])
def test_networks_of_every_space_score_as_the_definition_says(space: str) -> None:
    """Forty random ones a space: 200 in all, with stacks of one, two and three initialisations."""
    rng, here = np.random.default_rng(0), SPACES[space]
    size = replace(here.proxy, depth=1 if here.proxy.depth else None)
    side = 32 if space.startswith("transnas") else 16
    x = torch.randn(6, 3, side, side, generator=torch.Generator().manual_seed(0))
    scored = 0
    while scored < 40:
        arch = here.sample(rng)
        if here.connected(arch):
            check_against_the_definition(lambda a=arch: here.network(a, size), x, protocol(6, 1 + scored % 3))  # type: ignore[misc]
            scored += 1


@pytest.mark.parametrize("change", [{"batch_norm": "fresh"}, {"initialisation": "kaiming"}])
def test_every_setting_of_the_protocol_means_what_it_says(change: dict[str, str]) -> None:
    settings = replace(protocol(repeats=2), **change)  # type: ignore[arg-type]
    check_against_the_definition(builder(GENOMES[0]), images(), settings)
    small = replace(protocol(), image_size=8)
    x = images()
    halved = torch.nn.functional.avg_pool2d(x, 2)
    assert swap_score(builder(GENOMES[0]), x, 0, small) == swap_score(builder(GENOMES[0]), halved, 0, protocol())
    coarse = torch.nn.functional.avg_pool2d(x, 4)
    smooth = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic")
    detail = replace(protocol(), detail=4)
    assert swap_score(builder(GENOMES[0]), x, 0, detail) == swap_score(builder(GENOMES[0]), smooth, 0, protocol())


def test_in_single_precision_the_count_is_the_same_but_for_values_next_to_zero() -> None:
    for genome in GENOMES:
        single, double = (swap_score(builder(genome), x, 3, protocol(repeats=4)) for x in (images(), images().double()))
        assert single is not None and double is not None
        assert single.swap == pytest.approx(double.swap, rel=2e-3)


def test_a_protocol_is_known_by_what_it_does() -> None:
    assert replace(PAPER, name="other").digest == PAPER.digest
    assert len({PAPER.digest, FACTORY.digest, replace(PAPER, repeats=31).digest, PAPER.sized(3, 2).digest}) == 4
    with pytest.raises(ValueError, match="takes 16 images, found 12"):
        swap_score(builder(GENOMES[0]), images(), 0, PAPER)


def test_the_score_depends_on_its_arguments_alone() -> None:
    one = swap_score(builder(GENOMES[0]), images(), 1, protocol(repeats=2))
    torch.manual_seed(99)
    torch.randn(1000)
    assert swap_score(builder(GENOMES[0]), images(), 1, protocol(repeats=2)) == one
    assert swap_score(builder(GENOMES[0]), images(), 2, protocol(repeats=2)) != one
    assert swap_score(builder(GENOMES[0]), images(1), 1, protocol(repeats=2)) != one


def test_more_repeats_keep_the_first_ones() -> None:
    few, more = (swap_score(builder(GENOMES[1]), images().double(), 3, protocol(repeats=n)) for n in (2, 5))
    assert few is not None and more is not None
    assert more.per_init[:2] == few.per_init
    assert len(more.per_init) == 5


def test_maps_that_two_layers_read_are_positions_twice_and_patterns_once() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return (self.one(x) + self.two(x)).mean((2, 3))

    class Single(Fork):
        def forward(self, x: Tensor) -> Tensor:
            return self.one(self.conv(x)).mean((2, 3))

    forked, single = (swap_score(kind, images(), 0, protocol()) for kind in (Fork, Single))
    assert forked is not None and single is not None
    assert (forked.per_init, forked.positions) == (single.per_init, 2 * single.positions)


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Hardswish])
def test_activations_without_on_and_off_are_refused_with_the_reason(activation: type[nn.Module]) -> None:
    smooth = nn.Sequential(nn.Conv2d(1, 2, 3), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UnscorableError, match=f"{activation.__name__} has no on and off"):
        swap_score(lambda: smooth, images(), 0, protocol())


class Broken(nn.Module):
    """Fails after its first ReLU, or spoils its output."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.relu, self.spoil = nn.Conv2d(1, 4, 3), nn.ReLU(), spoil

    def forward(self, x: Tensor) -> Tensor:
        return self.spoil(self.relu(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    "spoil",
    [lambda x: x * 0, lambda x: x * float("nan"), lambda x: x / 0, lambda x: x[:1].expand(len(x), -1)],
    ids=["zero", "nan", "infinite", "same for all"],
)
def test_a_degenerate_network_has_no_score(spoil: Callable[[Tensor], Tensor]) -> None:
    assert swap_score(lambda: Broken(spoil), images(), 0, protocol(repeats=2)) is None
    assert swap_score(lambda: Broken(lambda x: x), images(), 0, protocol(repeats=2)) is not None


def test_images_that_are_no_numbers_or_all_black_have_no_score() -> None:
    spoiled = images()
    spoiled[3, 0, 2, 2] = float("nan")
    for x in (spoiled, torch.zeros(12, 1, 16, 16)):
        assert swap_score(builder(GENOMES[0]), x, 0, protocol(len(x))) is None


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
    assert swap_score(Steps, x, 0, protocol(len(x))) == SwapScore(2.0, (2,), 3, 2 / 3)
