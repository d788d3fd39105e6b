"""What befalls pictures at an inspection station, in five severities each, in the manner of ImageNet-C.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019;
the kinds and the amounts are those of a station rather than of photographs. They act on the network's input. What
happens in front of the sensor is measured in shares of the picture's shorter side, for a defocus, a shift or a speck
covers the same part of the field of view at whatever resolution the network looks: on 32 pixels a blur of severity 1
is a third of a pixel wide, on 256 nearly three. What happens behind it, noise, dead pixels and JPEG, is measured in
pixels of the input; a picture that the station makes smaller hides more of it than these figures say.

What is drawn at random, such as the direction of a shift, is drawn for each picture from (seed, its row) and is the
same at every severity, so that a curve over severities shows the amount and nothing else.
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import affine_transform
from scipy.signal import fftconvolve

Images: TypeAlias = NDArray[np.uint8]
Real: TypeAlias = NDArray[np.float64]
Corruption: TypeAlias = Callable[[Images, int, int], Images]
_Effect: TypeAlias = Callable[[Real, float, np.random.Generator], Real]

SEVERITIES: Final = (1, 2, 3, 4, 5)

_READ_NOISE: Final = 0.1  # share of the variance at white that is there in the dark, too
_SPECK: Final = (0.008, 0.03)  # radius in shares of the shorter side
_SPECKS: Final = 16  # drawn for every picture; the severity says how many of them have settled


def _noise(picture: Real, spread: float, rng: np.random.Generator) -> Real:
    """Shot noise, whose variance is proportional to the light, and read noise (EMVA Standard 1288, section 2).

    `spread` is the standard deviation at white, in shares of white.
    """
    variance = (255 * spread) ** 2 * (_READ_NOISE + (1 - _READ_NOISE) * picture / 255)
    noisy: Real = picture + np.sqrt(variance) * rng.standard_normal(picture.shape)
    return noisy


def _smear(picture: Real, moves: Real) -> Real:
    """Mean of the picture over moves (P, 2) in pixels, bilinear between pixels and mirrored at the border."""
    reach = int(np.abs(moves).max()) + 1
    low = np.floor(moves).astype(np.intp)
    part = moves - low
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for corner in np.ndindex(2, 2):
        weight = np.abs(1 - np.array(corner) - part).prod(axis=1) / len(moves)
        np.add.at(kernel, tuple((low + corner + reach).T), weight)
    padded = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), "symmetric")
    smeared: Real = fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))
    return smeared


def _motion(picture: Real, share: float, rng: np.random.Generator) -> Real:
    """The part moves, in any direction, over a share of the shorter side while the shutter is open."""
    angle = rng.uniform(0, np.pi)
    path = np.linspace(-0.5, 0.5, 65)[:, None] * [np.sin(angle), np.cos(angle)]
    return _smear(picture, share * min(picture.shape[:2]) * path)


def _defocus(picture: Real, share: float, _: np.random.Generator) -> Real:
    """A point becomes a disc; `share` is its radius over the shorter side."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 41)] * 2), axis=-1).reshape(-1, 2)
    disc = grid[np.hypot(*grid.T) <= 1]
    return _smear(picture, share * min(picture.shape[:2]) * disc)


def _brightness(picture: Real, stops: float, rng: np.random.Generator) -> Real:
    """Light or exposure is off by so many stops (factors of two), too bright or too dark by the toss of a coin."""
    brighter: Real = picture * 2.0 ** (stops if rng.random() < 0.5 else -stops)
    return brighter


def _contrast(picture: Real, lost: float, _: np.random.Generator) -> Real:
    """A share of the contrast is lost, as behind a fogged window; the mean stays."""
    flat: Real = picture + lost * (picture.mean(axis=(0, 1)) - picture)
    return flat


def _vignetting(picture: Real, fall: float, _: np.random.Generator) -> Real:
    """Light falls with the square of the distance from the middle, by the share `fall` in the corners."""
    down, across = (np.linspace(-1, 1, side) ** 2 for side in picture.shape[:2])
    darker: Real = picture * (1 - fall * (down[:, None] + across) / 2)[..., None]
    return darker


def _jpeg(picture: Real, quality: float, _: np.random.Generator) -> Real:
    """Compressed by Pillow's JPEG at that quality."""
    stream = BytesIO()
    pixels = picture.astype(np.uint8)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, "JPEG", quality=int(quality))
    return np.asarray(Image.open(stream), np.float64).reshape(picture.shape)


def _moved(picture: Real, angle: float, shift: Real) -> Real:
    """Turned about the middle by an angle in radians, then shifted by pixels (2,); mirrored at the border."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (np.array(picture.shape[:2]) - 1) / 2
    offset = middle - turn @ (middle + shift)
    planes = [affine_transform(plane, turn, offset, order=1, mode="reflect") for plane in np.moveaxis(picture, 2, 0)]
    return np.stack(planes, axis=2)


def _shift(picture: Real, share: float, rng: np.random.Generator) -> Real:
    """The part lies off its place, in any direction, by a share of the shorter side."""
    angle = rng.uniform(0, 2 * np.pi)
    return _moved(picture, 0.0, share * min(picture.shape[:2]) * np.array([np.sin(angle), np.cos(angle)]))


def _rotation(picture: Real, degrees: float, rng: np.random.Generator) -> Real:
    """The part lies turned to the left or the right."""
    return _moved(picture, np.deg2rad(degrees if rng.random() < 0.5 else -degrees), np.zeros(2))


def _dead_pixels(picture: Real, share: float, rng: np.random.Generator) -> Real:
    """A share of the pixels is stuck at black or at white."""
    draws = rng.random((2, *picture.shape[:2], 1))
    stuck: Real = np.where(draws[0] < share, 255.0 * (draws[1] < 0.5), picture)
    return stuck


def _dust(picture: Real, specks: float, rng: np.random.Generator) -> Real:
    """So many dark round specks lie on the part or the window, each of its own size and darkness."""
    height, width = picture.shape[:2]
    draws = rng.random((_SPECKS, 4))[: int(specks)]
    rows, columns = np.ogrid[:height, :width]
    for row, column, size, dark in draws:
        radius = min(height, width) * (_SPECK[0] + (_SPECK[1] - _SPECK[0]) * size)
        distance = np.hypot(rows - row * (height - 1), columns - column * (width - 1))
        cover = np.clip(radius + 0.5 - distance, 0, 1)  # an edge one pixel wide
        picture = picture * (1 - (0.4 + 0.4 * dark) * cover)[..., None]
    return picture


def _graded(effect: _Effect, amounts: tuple[float, float, float, float, float]) -> Corruption:
    def corrupt(images: Images, severity: int, seed: int) -> Images:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"expected uint8 images (N, H, W, 1 or 3), found {images.dtype} {images.shape}")
        if severity not in (0, *SEVERITIES):
            raise ValueError(f"expected a severity of 0 to 5, found {severity}")
        changed = images.copy()
        for row, picture in enumerate(images if severity else ()):
            real = effect(picture.astype(np.float64), amounts[severity - 1], np.random.default_rng([seed, row]))
            changed[row] = np.clip(np.rint(real), 0, 255)
        return changed

    return corrupt


CORRUPTIONS: Final[Mapping[str, Corruption]] = {
    "sensor noise": _graded(_noise, (0.02, 0.04, 0.07, 0.11, 0.16)),
    "motion blur": _graded(_motion, (0.02, 0.035, 0.055, 0.08, 0.11)),
    "defocus": _graded(_defocus, (0.01, 0.016, 0.024, 0.034, 0.046)),
    "brightness": _graded(_brightness, (0.1, 0.2, 0.35, 0.55, 0.8)),
    "contrast": _graded(_contrast, (0.15, 0.3, 0.45, 0.6, 0.75)),
    "vignetting": _graded(_vignetting, (0.1, 0.2, 0.3, 0.45, 0.6)),
    "JPEG": _graded(_jpeg, (80, 50, 30, 18, 10)),
    "shift": _graded(_shift, (0.01, 0.02, 0.04, 0.06, 0.09)),
    "rotation": _graded(_rotation, (1.0, 2.0, 4.0, 7.0, 11.0)),
    "dead pixels": _graded(_dead_pixels, (0.001, 0.003, 0.008, 0.018, 0.035)),
    "dust": _graded(_dust, (1, 3, 6, 10, _SPECKS)),
}
"""Name to function of uint8 images (N, H, W, C), C 1 or 3, a severity of 0 to 5 and a seed; the same shape comes back.

Severity 0 is the picture itself. Raises ValueError for other images or severities.
"""
