import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from factory.swapout.layer import Swapout, linear_schedule, probabilities, quantise, sample_with

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def streams(layout: torch.memory_format, shape: tuple[int, ...] = (3, 5, 7, 6)) -> tuple[Tensor, Tensor]:
    x, f = torch.randn(2, *shape, generator=generator(42), dtype=torch.float64)
    return x.contiguous(memory_format=layout), f.contiguous(memory_format=layout)


def sampling(p1: float, p2: float, seed: int = 0) -> Swapout:
    layer = Swapout(p1, p2)
    sample_with(layer, generator(seed))
    return layer


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_unit_is_one_of_the_four_outcomes_and_all_four_occur(layout: torch.memory_format) -> None:
    x, f = streams(layout, (8, 16, 8, 8))
    y = sampling(0.5, 0.75)(x, f)
    outcomes = [torch.zeros_like(x), x, f, x + f]
    which = torch.stack([y == outcome for outcome in outcomes])
    assert (which.sum(0) == 1).all()  # exactly, to the last bit
    shares = which.flatten(1).double().mean(1)
    wanted = torch.tensor([0.5 * 0.25, 0.5 * 0.25, 0.5 * 0.75, 0.5 * 0.75], dtype=torch.float64)
    sigma = (wanted * (1 - wanted) / y.numel()).sqrt()
    assert ((shares - wanted).abs() < 5 * sigma).all()
    assert y.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("p1", "p2"), [(0.5, 0.5), (0.9, 0.2), (1.0, 0.6), (0.1, 1.0)])
def test_mean_and_variance_are_those_of_theory(p1: float, p2: float, layout: torch.memory_format) -> None:
    x, f = streams(layout)
    layer, draws = sampling(p1, p2), 4000
    samples = torch.stack([layer(x, f) for _ in range(draws)])
    q1, q2 = layer.p1, layer.p2
    mean, variance = q1 * x + q2 * f, q1 * (1 - q1) * x**2 + q2 * (1 - q2) * f**2
    error = (samples.mean(0) - mean).abs()
    assert (error <= 5 * (variance / draws).sqrt() + 1e-12).all()
    centred = (samples - mean) ** 2
    assert ((centred.mean(0) - variance).abs() <= 5 * centred.std(0) / draws**0.5 + 1e-12).all()


def test_masks_of_stream_and_branch_and_of_neighbours_are_independent() -> None:
    one = torch.ones(64, 8, 16, 16, dtype=torch.float64)
    y = sampling(0.5, 0.5)(one, 2 * one)
    keep_x, keep_f = (y == 1) | (y == 3), y >= 2
    limit = 5 / keep_x.numel() ** 0.5
    for a, b in (
        (keep_x, keep_f),
        *((m, m.roll(1, dims=d)) for m in (keep_x, keep_f) for d in range(4)),
        (keep_x, keep_x.roll(8, dims=3)),
    ):
        assert abs(float((a == b).double().mean()) * 2 - 1) < limit


def test_the_same_seed_draws_the_same_masks_and_the_next_draw_others() -> None:
    x, f = streams(torch.contiguous_format)
    one, two, other = sampling(0.5, 0.5), sampling(0.5, 0.5), sampling(0.5, 0.5, seed=1)
    first, second = one(x, f), one(x, f)
    assert torch.equal(first, two(x, f))
    assert torch.equal(second, two(x, f))
    assert not torch.equal(first, second)
    assert not torch.equal(first, other(x, f))


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    x, f = streams(torch.contiguous_format)
    torch.manual_seed(0)
    one = sampling(0.5, 0.5)(x, f)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(one, sampling(0.5, 0.5)(x, f))
    torch.manual_seed(0)
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize("seed", [None, 0])
def test_probability_one_is_the_plain_sum(seed: int | None) -> None:
    x, f = streams(torch.contiguous_format)
    layer = Swapout(1.0, 1.0)
    sample_with(layer, None if seed is None else generator(seed))
    assert torch.equal(layer(x, f), x + f)


@given(st.floats(0.01, 1), st.floats(0.01, 1))
def test_expectation_uses_the_probabilities_that_sampling_uses(p1: float, p2: float) -> None:
    layer = Swapout(p1, p2)
    x, f = torch.tensor([[[[1.0]]]], dtype=torch.float64), torch.tensor([[[[1000.0]]]], dtype=torch.float64)
    assert layer(x, f).item() == layer.p1 + 1000 * layer.p2
    assert abs(layer.p1 - p1) <= 1 / 512 and abs(layer.p2 - p2) <= 1 / 512
    assert (256 * layer.p1).is_integer()


@pytest.mark.parametrize("level", [1, 100, 255])
def test_of_all_256_bytes_exactly_the_level_is_kept(level: int) -> None:
    """Count over many draws: the share kept is level / 256, and neither one level more nor less fits the count."""
    one = torch.ones(256, 64, 16, 16)
    layer = Swapout(level / 256, 1.0)
    kept = [(layer_of(layer, seed)(one, 0 * one) > 0).double().mean().item() for seed in range(4)]
    share, count = sum(kept) / 4, 4 * one.numel()
    p = level / 256
    sigma = (p * (1 - p) / count) ** 0.5
    assert abs(share - p) < 5 * sigma
    assert 5 * sigma < 1 / 512


def layer_of(layer: Swapout, seed: int) -> Swapout:
    sample_with(layer, generator(seed))
    return layer


def test_gradients_flow_through_what_is_kept() -> None:
    x, f = (t.clone().requires_grad_() for t in streams(torch.channels_last))
    y = sampling(0.5, 0.75)(x, f)
    y.sum().backward()
    assert x.grad is not None and f.grad is not None
    assert torch.equal(y.detach(), x.grad * x.detach() + f.grad * f.detach())
    assert set(x.grad.unique().tolist()) == set(f.grad.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("wrong", [0.0, -0.5, 1.01, 2.0, float("nan")])
def test_probabilities_outside_zero_to_one_are_refused(wrong: float) -> None:
    for p1, p2 in ((wrong, 1.0), (1.0, wrong)):
        with pytest.raises(ValueError, match=r"probability must lie in \(0, 1\]|NaN"):
            Swapout(p1, p2)


def test_quantising_rounds_to_the_nearest_of_256_levels() -> None:
    assert [quantise(p) for p in (1.0, 0.5, 1 / 256, 0.999, 0.1)] == [256, 128, 1, 256, 26]


@pytest.mark.parametrize(
    ("blocks", "wanted"),
    [(1, (0.5,)), (2, (1.0, 0.5)), (3, (1.0, 0.75, 0.5)), (6, (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)), (0, ())],
)
def test_the_schedule_is_linear_over_depth(blocks: int, wanted: tuple[float, ...]) -> None:
    assert linear_schedule(1.0, 0.5, blocks) == pytest.approx(wanted)


def test_sampling_is_switched_for_every_layer_of_a_network() -> None:
    network = nn.Sequential(nn.Sequential(Swapout(1.0, 0.5)), nn.ReLU(), Swapout(0.25, 0.75))
    assert probabilities(network) == [(1.0, 0.5), (0.25, 0.75)]
    own = generator()
    layers = [m for m in network.modules() if isinstance(m, Swapout)]
    sample_with(network, own)
    assert all(layer.generator is own for layer in layers)
    sample_with(network, None)
    assert all(layer.generator is None for layer in layers)
