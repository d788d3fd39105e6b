import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from factory.swapout.layer import Swapout, probabilities, quantise, sample_with
from factory.swapout.schedule import Coupling, Per

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


@pytest.mark.parametrize("wrong", [-0.5, 1.01, 2.0, float("nan"), 1e-4])
def test_probabilities_outside_zero_to_one_are_refused(wrong: float) -> None:
    for p1, p2 in ((wrong, 1.0), (1.0, wrong), ((0.5, wrong), 1.0)):
        with pytest.raises(
            ValueError, match=r"a Swapout probability (must lie in \[0, 1\]|is 0 or above 1/512), found"
        ):
            Swapout(p1, p2)


@pytest.mark.parametrize(("p1", "p2"), [(0.0, 0.0), ((0.5, 0.0), 1.0), (1.0, (0.5, 0.0))])
def test_a_channel_of_which_nothing_is_kept_is_refused(p1: float, p2: float) -> None:
    with pytest.raises(ValueError, match="a probability of 0 is for one of the two terms, in all channels"):
        Swapout(p1, p2)


def test_a_coupling_and_its_probabilities_must_agree() -> None:
    with pytest.raises(ValueError, match=r"one mask for both has one probability, found 0\.5 and 0\.75"):
        Swapout(0.5, 0.75, coupling="same")
    with pytest.raises(ValueError, match=r"sum to 1, found 0\.5 and 0\.75"):
        Swapout(0.5, 0.75, coupling="opposite")


@given(st.floats(1 / 511, 1))
def test_opposite_probabilities_sum_to_one_in_levels(p1: float) -> None:
    layer = Swapout(p1, 1 - p1, coupling="opposite")
    assert isinstance(layer.p1, float) and isinstance(layer.p2, float)
    assert layer.p1 + layer.p2 == 1


def test_quantising_rounds_to_the_nearest_of_256_levels() -> None:
    assert [quantise(p) for p in (1.0, 0.5, 1 / 256, 0.999, 0.1)] == [256, 128, 1, 256, 26]


SHAPES = {"unit": (3, 5, 7, 6), "channel": (3, 5, 1, 1), "sample": (3, 1, 1, 1), "layer": (1, 1, 1, 1)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("coupling", ["independent", "same", "opposite"])
@pytest.mark.parametrize("per", SHAPES)
def test_one_draw_decides_what_its_granularity_says(per: Per, coupling: Coupling, layout: torch.memory_format) -> None:
    """The masks are constant over what one draw decides and vary, independently, over all else."""
    one = torch.ones(3, 5, 7, 6, dtype=torch.float64).contiguous(memory_format=layout)
    layer = Swapout(0.5, 0.5, per, coupling)
    sample_with(layer, generator())
    masks = []
    for _ in range(300):
        y = layer(one, 2 * one)
        masks.append(torch.stack([y % 2, y // 2]))  # T1, T2
    drawn = torch.stack(masks)
    shape = SHAPES[per]
    small = drawn[:, :, : shape[0], : shape[1], : shape[2], : shape[3]]
    assert torch.equal(drawn, small.expand_as(drawn))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    rows = (2 * small - 1).flatten(2)  # draw, stream or branch, decision
    limit = 6 / 300**0.5
    for k in range(2):
        both = rows[:, k].T @ rows[:, k] / 300
        assert (both - torch.eye(both.shape[0], dtype=torch.float64)).abs().max() < limit
    wanted = {"independent": 0, "same": 1, "opposite": -1}[coupling]
    assert ((rows[:, 0] * rows[:, 1]).mean(0) - wanted).abs().max() < (limit if wanted == 0 else 1e-12)


@pytest.mark.parametrize("coupling", ["independent", "same", "opposite"])
@pytest.mark.parametrize("per", SHAPES)
@pytest.mark.parametrize("by_channel", [False, True])
def test_moments_are_those_of_theory_for_every_granularity_and_coupling(
    per: Per, coupling: Coupling, by_channel: bool
) -> None:
    x, f = streams(torch.channels_last, (2, 3, 4, 3))
    p1: tuple[float, ...] = (0.25, 0.5, 0.875) if by_channel else (0.75,) * 3
    p2 = {"same": p1, "opposite": tuple(1 - p for p in p1), "independent": p1[::-1]}[coupling]
    layer = Swapout(p1 if by_channel else p1[0], p2 if by_channel else p2[0], per, coupling)
    sample_with(layer, generator())
    draws = 4000
    samples = torch.stack([layer(x, f) for _ in range(draws)])
    q1, q2 = (torch.tensor(p, dtype=torch.float64).view(1, 3, 1, 1) for p in (p1, p2))
    covariance = {"same": q1 * (1 - q1), "opposite": -q1 * q2, "independent": 0 * q1}[coupling]
    variance = q1 * (1 - q1) * x**2 + q2 * (1 - q2) * f**2 + 2 * covariance * x * f
    assert ((samples.mean(0) - q1 * x - q2 * f).abs() <= 5 * (variance / draws).sqrt() + 1e-12).all()
    centred = (samples - q1 * x - q2 * f) ** 2
    assert ((centred.mean(0) - variance).abs() <= 5 * centred.std(0) / draws**0.5 + 1e-12).all()
    sample_with(layer, None)
    torch.testing.assert_close(layer(x, f), q1 * x + q2 * f, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_is_dropped_is_zero_whatever_it_was(dtype: torch.dtype) -> None:
    x = torch.full((2, 3, 8, 8), float("nan"), dtype=dtype)
    y = sampling(0.5, 1.0)(x, torch.ones_like(x))
    assert y.dtype == dtype
    assert 0.3 < float((y == 1).double().mean()) < 0.7
    assert (y.isnan() | (y == 1)).all()


def test_a_tensor_that_is_no_block_of_memory_is_masked_as_any_other() -> None:
    one = torch.ones(1, 4, 8, 8).expand(16, -1, -1, -1)[:, :, ::2]
    y = sampling(0.5, 0.5)(one, 2 * one)
    shares = [float((y == k).double().mean()) for k in range(4)]
    assert all(abs(share - 0.25) < 5 * (0.1875 / y.numel()) ** 0.5 for share in shares)


def test_sampling_is_switched_for_every_layer_of_a_network() -> None:
    network = nn.Sequential(nn.Sequential(Swapout(1.0, 0.5)), nn.ReLU(), Swapout(0.25, 0.75))
    assert probabilities(network) == [(1.0, 0.5), (0.25, 0.75)]
    own = generator()
    layers = [m for m in network.modules() if isinstance(m, Swapout)]
    sample_with(network, own)
    assert all(layer.generator is own for layer in layers)
    sample_with(network, None)
    assert all(layer.generator is None for layer in layers)
