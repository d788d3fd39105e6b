import itertools
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from factory.training.corruptions import CORRUPTIONS, SEVERITIES

NAMES = list(CORRUPTIONS)


def pictures(side: int = 48, channels: int = 1, count: int = 12) -> np.ndarray:
    """Smooth shapes in several sizes, as photographs have them, spread over the grey levels."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(count, 2 * side, 2 * side, channels))
    mixed = sum(gaussian_filter(noise, (0, s, s, 0)) * s**1.2 for s in (1, side / 24, side / 6))
    mixed = mixed[:, :side, : side + 6]
    return np.clip(127 + 45 * mixed / mixed.std(), 0, 255).astype(np.uint8)


def change(changed: np.ndarray, images: np.ndarray) -> float:
    return float(np.abs(changed.astype(np.float64) - images).mean())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("side", "channels"), [(32, 1), (64, 3)])
def test_more_severe_is_worse_and_severity_0_is_the_picture_itself(name: str, side: int, channels: int) -> None:
    images = pictures(side, channels)
    before = images.copy()
    found = [CORRUPTIONS[name](images, severity, 0) for severity in (0, *SEVERITIES)]
    assert (images == before).all()
    assert all(changed.dtype == np.uint8 and changed.shape == images.shape for changed in found)
    assert (found[0] == images).all()
    changes = [change(changed, images) for changed in found]
    assert changes == sorted(changes)
    assert len(set(changes)) == 6
    assert changes[-1] < 80  # still the same pictures


@pytest.mark.parametrize("name", NAMES)
def test_the_same_input_gives_the_same_and_a_picture_does_not_depend_on_those_after_it(name: str) -> None:
    images = pictures()
    first = CORRUPTIONS[name](images, 3, 7)
    state = np.random.get_state()[1].copy()
    assert (CORRUPTIONS[name](images, 3, 7) == first).all()
    assert (np.random.get_state()[1] == state).all()
    assert (CORRUPTIONS[name](images[:3], 3, 7) == first[:3]).all()


@pytest.mark.parametrize(
    "name", ["sensor noise", "motion blur", "brightness", "shift", "rotation", "dead pixels", "dust"]
)
def test_another_seed_draws_otherwise(name: str) -> None:
    images = pictures()
    assert (CORRUPTIONS[name](images, 3, 0) != CORRUPTIONS[name](images, 3, 1)).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_that_of_pillow(channels: int) -> None:
    images = pictures(channels=channels)
    for severity, quality in zip(SEVERITIES, (80, 50, 30, 18, 10), strict=True):
        for picture, found in zip(images, CORRUPTIONS["JPEG"](images, severity, 0), strict=True):
            stream = BytesIO()
            Image.fromarray(picture.squeeze()).save(stream, "JPEG", quality=quality)
            assert (found.squeeze() == np.array(Image.open(stream))).all()


def test_noise_has_the_spread_it_is_said_to_have_and_grows_with_the_light() -> None:
    levels = {0.25: 64, 0.75: 191}
    for share, grey in levels.items():
        flat = np.full((4, 64, 64, 1), grey, np.uint8)
        found = CORRUPTIONS["sensor noise"](flat, 2, 0) / 255.0
        assert found.std() == pytest.approx(0.04 * np.sqrt(0.1 + 0.9 * share), rel=0.04)
        assert found.mean() == pytest.approx(grey / 255, abs=0.002)


def _point(side: int) -> np.ndarray:
    image = np.zeros((1, side + 1, side + 1, 1), np.uint8)
    image[0, side // 2, side // 2] = 255
    return image


def _spread(changed: np.ndarray) -> float:
    """Standard deviation of the light of a point about the point, over both axes, in pixels."""
    light = changed[0, ..., 0].astype(np.float64)
    rows, columns = np.indices(light.shape) - light.shape[0] // 2
    return float(np.sqrt((light * (rows**2 + columns**2)).sum() / light.sum()))


def test_a_blur_covers_the_same_share_of_a_picture_of_any_size() -> None:
    disc = np.full((1, 257, 257, 1), 0, np.uint8)
    disc[0, 120:137, 120:137] = 255  # bright enough for a wide blur to be seen in eight bits
    own = _spread(disc)
    wide = np.sqrt(_spread(CORRUPTIONS["defocus"](disc, 5, 0)) ** 2 - own**2)
    assert wide == pytest.approx(0.046 * 257 / np.sqrt(2), rel=0.05)  # of a uniform disc
    along = np.sqrt(_spread(CORRUPTIONS["motion blur"](disc, 5, 0)) ** 2 - own**2)
    assert along == pytest.approx(0.11 * 257 / np.sqrt(12), rel=0.05)  # of a uniform line
    for side in (32, 64):
        blurred = CORRUPTIONS["defocus"](_point(side), 1, 0)
        assert 0 < _spread(blurred) < 0.05 * side  # below one pixel it blurs all the same
        assert int(blurred.sum()) == pytest.approx(255, abs=6)


def test_a_shift_and_a_rotation_are_as_large_as_said() -> None:
    rows, columns = np.mgrid[:101, :101]
    ramp = np.stack([rows, columns, np.full_like(rows, 9)], axis=2)[None].astype(np.uint8)
    moved = CORRUPTIONS["shift"](ramp, 3, 0)[0, 20:-20, 20:-20].astype(np.float64) - ramp[0, 20:-20, 20:-20]
    assert np.hypot(*moved.mean((0, 1))[:2]) == pytest.approx(4.04, abs=0.7)  # rounded to whole grey levels
    assert (moved[..., 2] == 0).all()
    turned = CORRUPTIONS["rotation"](ramp, 5, 0)[0].astype(np.float64)
    middle = slice(30, 71)
    slope = np.polyfit(np.arange(41), turned[50, middle, 0], 1)[0]
    assert abs(slope) == pytest.approx(np.sin(np.deg2rad(11)), abs=0.02)
    assert turned[50, 50].tolist() == [50, 50, 9]


def test_brightness_contrast_and_vignetting_are_the_gains_they_say() -> None:
    images = np.random.default_rng(0).integers(60, 120, (30, 33, 33, 1)).astype(np.uint8)
    gains = CORRUPTIONS["brightness"](images, 5, 0).mean((1, 2, 3)) / images.mean((1, 2, 3))
    assert sorted({round(float(gain), 2) for gain in gains}) == [0.57, 1.74]
    flat = CORRUPTIONS["contrast"](images, 4, 0)
    assert flat.std((1, 2, 3)) == pytest.approx(0.4 * images.std((1, 2, 3)), rel=0.03)
    assert flat.mean((1, 2, 3)) == pytest.approx(images.mean((1, 2, 3)), abs=0.1)
    dark = CORRUPTIONS["vignetting"](np.full((1, 33, 33, 1), 200, np.uint8), 5, 0)[0, ..., 0]
    assert [dark[16, 16], dark[0, 0], dark[-1, 0], dark[0, 16]] == [200, 80, 80, 140]


def test_dead_pixels_and_specks_stay_where_they_are_as_more_come() -> None:
    images = pictures(count=4)
    changed = [CORRUPTIONS["dead pixels"](images, severity, 0) for severity in SEVERITIES]
    stuck = [found != images for found in changed]
    assert stuck[-1].mean() == pytest.approx(0.035, abs=0.01)
    assert all(set(np.unique(found[own])) <= {0, 255} for found, own in zip(changed, stuck, strict=True))
    assert all((~few | many).all() for few, many in itertools.pairwise(stuck))
    dusty = [CORRUPTIONS["dust"](images, severity, 0) for severity in SEVERITIES]
    assert (dusty[0] <= images).all()
    assert all((more <= less).all() for less, more in itertools.pairwise(dusty))


@pytest.mark.parametrize(
    ("images", "severity"),
    [
        (np.zeros((2, 8, 8, 1), np.float32), 1),
        (np.zeros((8, 8, 3), np.uint8), 1),
        (np.zeros((2, 8, 8, 4), np.uint8), 1),
        (np.zeros((2, 8, 8, 1), np.uint8), 6),
    ],
)
def test_other_images_and_severities_are_refused(images: np.ndarray, severity: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        CORRUPTIONS["contrast"](images, severity, 0)
