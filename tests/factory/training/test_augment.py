import math

import numpy as np
import pytest
import torch
from torch import Tensor

from factory.profiles import Augmentation
from factory.training.augment import augment

OFF = Augmentation(shift=0, brightness=0, contrast=0, noise=0)


def only(**settings: float | bool) -> Augmentation:
    return OFF.model_copy(update=settings)


def images(count: int = 64, height: int = 8, width: int = 8, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def varied(x: Tensor, settings: Augmentation, seed: int = 0) -> Tensor:
    return augment(x, settings, torch.Generator().manual_seed(seed))


def test_switched_off_it_changes_nothing() -> None:
    x = images(channels=3)
    assert torch.equal(varied(x, OFF), x)


def test_the_defaults_turn_nothing_over() -> None:
    """Small pictures of a corner stay pictures of that corner: flips and turns are the profile's to allow."""
    x = torch.zeros(256, 1, 16, 16)
    x[:, :, 2:6, 2:6] = 1
    y = varied(x, Augmentation())
    assert (y[:, :, :8, :8].sum((1, 2, 3)) > y[:, :, 8:, :].sum((1, 2, 3)) + 4).all()
    assert (y[:, :, :8, :8].sum((1, 2, 3)) > y[:, :, :, 8:].sum((1, 2, 3)) + 4).all()


ROTATIONS = [lambda p, k=k: np.rot90(p, k, (1, 2)) for k in range(4)]
MOVES = {
    "flip_horizontal": [lambda p: p, lambda p: p[:, :, ::-1]],
    "flip_vertical": [lambda p: p, lambda p: p[:, ::-1]],
    "quarter_turns": ROTATIONS,
    "all": [*ROTATIONS, *(lambda p, k=k: np.rot90(p[:, :, ::-1], k, (1, 2)) for k in range(4))],
}


@pytest.mark.parametrize("name", MOVES)
def test_flips_and_turns_only_move_pixels_as_allowed(name: str) -> None:
    settings = only(**dict.fromkeys(MOVES if name == "all" else [name], True) | {"all": False})
    x = images(count=400, channels=3)
    counts = [0] * len(MOVES[name])
    for before, after in zip(x.numpy(), varied(x, settings).numpy(), strict=True):
        (index,) = [i for i, move in enumerate(MOVES[name]) if np.array_equal(move(before), after)]
        counts[index] += 1
    expected = 400 / len(counts)
    assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in counts)


def test_a_picture_that_is_not_square_is_turned_by_half() -> None:
    x = images(count=200, height=6, width=10)
    y = varied(x, only(quarter_turns=True))
    same = (y == x).all(3).all(2).all(1)
    turned = (y == x.flip(2, 3)).all(3).all(2).all(1)
    assert (same | turned).all()
    assert 60 < int(turned.sum()) < 140


def test_the_generator_decides() -> None:
    settings = Augmentation(flip_horizontal=True, quarter_turns=True, rotation_degrees=10)
    x = images()
    assert torch.equal(varied(x, settings), varied(x, settings))
    assert not torch.equal(varied(x, settings), varied(x, settings, seed=1))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    varied(x, settings)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_shape_and_dtype_are_kept_and_the_input_is_not_changed(layout: torch.memory_format) -> None:
    settings = Augmentation(
        flip_horizontal=True, flip_vertical=True, quarter_turns=True, shift=0.2, rotation_degrees=90, brightness=0.2
    )
    x = images(height=9, width=12, channels=3).contiguous(memory_format=layout)
    before = x.clone()
    y = varied(x, settings)
    assert (y.shape, y.dtype) == (x.shape, torch.float32)
    assert torch.isfinite(y).all()
    assert torch.equal(x, before)


def test_a_shift_moves_each_picture_by_up_to_its_share_of_the_side() -> None:
    x = torch.zeros(500, 1, 20, 40)
    x[:, :, 10, 20] = 1
    y = varied(x, only(shift=0.1)).squeeze(1)
    rows, columns = torch.arange(20.0), torch.arange(40.0)
    mass = y.sum((1, 2))
    down = (y.sum(2) @ rows) / mass - 10
    right = (y.sum(1) @ columns) / mass - 20
    for moved, bound in ((down, 2.0), (right, 4.0)):
        assert bound * 0.9 < moved.abs().max() <= bound + 0.01
        assert abs(moved.mean()) < 5 * bound / math.sqrt(3 * 500)
    assert abs(float(torch.corrcoef(torch.stack([down, right]))[0, 1])) < 0.25


def test_a_rotation_turns_without_stretching() -> None:
    """A dot right of the middle of an oblong picture runs on a circle, not on an ellipse."""
    x = torch.zeros(400, 1, 21, 41)
    x[:, :, 9:12, 26:29] = 1
    rows, columns = torch.meshgrid(torch.arange(21.0) - 10, torch.arange(41.0) - 20, indexing="ij")
    inside = torch.hypot(rows, columns) < 10.5  # beyond, the border mirrors the dot
    y = varied(x, only(rotation_degrees=60)).squeeze(1) * inside
    mass = y.sum((1, 2))
    down = (y.sum(2) @ torch.arange(21.0)) / mass - 10
    right = (y.sum(1) @ torch.arange(41.0)) / mass - 20
    torch.testing.assert_close(torch.hypot(down, right), torch.full((400,), 7.0), atol=0.35, rtol=0)
    angle = torch.rad2deg(torch.atan2(down, right))
    assert 55 < angle.max() <= 61 and -61 <= angle.min() < -55


def test_brightness_is_one_step_a_picture_within_its_bound() -> None:
    x = images(count=500)
    step = (varied(x, only(brightness=0.2)) - x).flatten(1)
    assert (step.max(1).values - step.min(1).values < 1e-6).all()
    assert 0.19 < step.abs().max() <= 0.2 + 1e-6


def test_contrast_scales_about_the_mean_of_each_picture() -> None:
    x = images(count=500)
    y = varied(x, only(contrast=0.3))
    middle = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(y.mean((1, 2, 3), keepdim=True), middle)
    gains = ((y - middle) / (x - middle)).flatten(1).median(1).values
    torch.testing.assert_close(y, middle + gains[:, None, None, None] * (x - middle), atol=1e-4, rtol=1e-4)
    assert 0.7 - 1e-3 <= gains.min() < 0.72 and 1.28 < gains.max() <= 1.3 + 1e-3


def test_noise_is_of_zero_mean_and_of_a_level_drawn_for_each_picture() -> None:
    x = images(count=200, height=32, width=32)
    change = (varied(x, only(noise=0.1)) - x).flatten(1)
    spread = change.std(1)
    assert spread.max() <= 0.11 and spread.max() > 0.085 and spread.min() < 0.02
    assert (change.mean(1).abs() < 5 * 0.1 / 32).all()
    shape = (change / spread[:, None]).flatten()
    for bound, share in ((1, 0.6827), (2, 0.9545), (2.5, 0.9876)):  # as a normal distribution lies
        assert abs(float((shape.abs() < bound).float().mean()) - share) < 0.01
    assert abs(float(torch.corrcoef(torch.stack([shape[:-1], shape[1:]]))[0, 1])) < 0.02
