import numpy as np
import pytest
from numpy.typing import NDArray

from export.runtime.drift.statistics import GRID, Gauge

SHAPES = [(8, 8, 1), (20, 31, 1), (17, 16, 3), (64, 48, 3)]


def frame(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def by_loops(picture: NDArray[np.uint8]) -> tuple[list[float], float, float]:
    """The same in plain loops and float64."""
    height, width, channels = picture.shape
    values = picture.astype(np.float64)
    rows = [i * height // GRID for i in range(GRID + 1)]
    columns = [i * width // GRID for i in range(GRID + 1)]
    cells = [
        values[rows[i] : rows[i + 1], columns[j] : columns[j + 1], c].mean()
        for i in range(GRID)
        for j in range(GRID)
        for c in range(channels)
    ]
    raster = values.reshape(-1, channels)
    x, y = np.diff(raster, axis=0), np.diff(values, axis=0)
    along_x, along_y = (x**2).mean(), (y**2).mean()
    shape = [np.log1p(values.std()), np.log1p(np.sqrt(along_x)), np.log1p(np.sqrt(along_y))]
    return [*cells, *shape], values.mean(), float(np.sqrt(along_x + along_y))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_statistics_are_those_of_plain_loops(shape: tuple[int, int, int]) -> None:
    picture = frame(shape)
    vector, brightness, sharpness = by_loops(picture)
    found = Gauge(*shape).measure(picture)
    np.testing.assert_allclose(found.vector, vector, rtol=1e-4)
    assert found.vector.shape == (Gauge(*shape).size,)
    assert (found.brightness, found.sharpness) == (
        pytest.approx(brightness, rel=1e-5),
        pytest.approx(sharpness, rel=1e-5),
    )


def test_an_even_picture_has_no_contrast_and_no_edges() -> None:
    found = Gauge(16, 16, 3).measure(np.full((16, 16, 3), 77, np.uint8))
    np.testing.assert_allclose(found.vector[:-3], 77, rtol=1e-6)
    np.testing.assert_allclose(found.vector[-3:], 0, atol=0.1)
    assert (found.brightness, found.sharpness) == (pytest.approx(77), 0)


def test_a_blurred_picture_is_less_sharp_and_as_bright() -> None:
    picture = frame((32, 32, 1))
    smooth = picture.reshape(8, 4, 8, 4).mean(axis=(1, 3)).repeat(4, 0).repeat(4, 1)[..., np.newaxis].astype(np.uint8)
    sharp, blurred = (Gauge(32, 32, 1).measure(own) for own in (picture, smooth))
    assert blurred.sharpness < sharp.sharpness / 2
    assert blurred.brightness == pytest.approx(sharp.brightness, abs=1)
