"""The pictures that a score is measured on: a folder's, a data set's, or made ones where there are none at hand."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.runtime.errors import ImageRefused, UsageError
from export.runtime.image import IMAGE_SUFFIXES, decode, fit, load

Pixels = NDArray[np.uint8]

FALL: Final = 1.5  # measured on CIFAR-10, where photographs are shrunk; 1 in photographs of full size (Field)

# Standard deviation along each of the main axes of colour, and the axes, in the pictures of CIFAR-10: nearly all of it
# is brightness. Measured on 2,000 of them, each channel scaled to unit variance.
_SPREAD: Final = (1.651, 0.471, 0.230)
_AXES: Final = ((0.568, 0.595, 0.569), (0.714, -0.013, -0.700), (0.409, -0.803, 0.432))
_CANVAS: Final = 4  # sides of a made picture from which it is cut, so that its mean varies as a photograph's does

_EXPECTED: Final = "a folder of pictures, or an .npz with x_train (N, H, W, 3) uint8, or with jpeg and offsets"


def load_pictures(path: Path | None, samples: int, size: int, seed: int) -> Tensor:
    """Draw pictures at random, and the same ones for the same seed.

    Without a path they are made: noise whose amplitude falls as a power of the frequency, as it does in photographs
    (Field, J. Opt. Soc. Am. A 4, 1987), with the power and the correlation of colours of CIFAR-10. They have no edges,
    yet rank networks about as well as real pictures do; white noise ranks far worse.

    Args:
        path: a folder of pictures in any layout; or an .npz with `x_train` uint8 (N, H, W, 3), or with `jpeg` uint8,
            JPEG files end to end, and `offsets` int (N + 1,). Labels of an .npz (`y_train` or `y`), or else folders,
            take turns: with K classes, picture i is of class i mod K.
        samples: number of pictures, S.
        size: their side in pixels; others are stretched to it by the rule that stations use.
        seed: of the draw.

    Returns:
        float32 (S, 3, size, size); each channel has mean 0 and standard deviation 1 over all pictures.

    Raises:
        UsageError: if there are too few pictures, or the path holds none.
    """
    if path is None:
        pixels = _made(samples, size, seed)
    elif path.is_dir():
        pixels = _of_folder(path, samples, size, seed)
    elif path.is_file():
        pixels = _of_file(path, samples, size, seed)
    else:
        raise UsageError(f"no pictures at {path}", expected=_EXPECTED, found="nothing", fix="Check the path")
    flat = pixels.reshape(-1, 3)
    spread = flat.std(0)
    normal = (pixels - flat.mean(0)) / np.where(spread > 0, spread, 1)
    return torch.from_numpy(normal.transpose(0, 3, 1, 2).astype(np.float32))


def _made(samples: int, size: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    side = _CANVAS * size
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    amplitude = np.power(frequency, -FALL, out=np.zeros_like(frequency), where=frequency > 0)
    colours = np.array(_SPREAD)[:, None] * np.array(_AXES)
    pictures = np.empty((samples, size, size, 3))
    for picture in pictures:
        noise = np.fft.rfft2(rng.standard_normal((3, side, side)))
        maps = np.fft.irfft2(noise * amplitude, (side, side))[:, :size, :size]
        picture[:] = np.einsum("ahw,ac->hwc", maps, colours)
    return pictures


def _in_turn(labels: NDArray[Any], samples: int, seed: int) -> NDArray[np.intp]:
    """Rows drawn at random, one of each class in turn as long as each has some."""
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    return np.lexsort((labels, turn))[:samples]


def _enough(path: Path, found: int, samples: int) -> None:
    if found < samples:
        raise UsageError(
            f"too few pictures in {path}",
            expected=f"{samples} or more",
            found=str(found),
            fix="Add pictures, or leave --images out to use made ones",
        )


def _of_folder(path: Path, samples: int, size: int, seed: int) -> NDArray[np.float64]:
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    _enough(path, len(files), samples)
    folders = np.array([str(file.parent) for file in files])
    return np.stack([load(files[row], size, size, 3) for row in _in_turn(folders, samples, seed)]).astype(np.float64)


def _arrays(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    """The arrays that may be used, and the names of all."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("another kind of file")
        with archive:
            known = {name: archive[name] for name in ("x_train", "y_train", "jpeg", "offsets", "y") if name in archive}
            return known, ", ".join(archive.files)
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        found = "another kind of file, or a broken one"  # numpy's own words advise to load pickles
        raise UsageError(f"{path} cannot be read", expected=_EXPECTED, found=found, fix="Name another") from error


def _of_file(path: Path, samples: int, size: int, seed: int) -> NDArray[np.float64]:
    arrays, names = _arrays(path)
    count, picture = _reader(arrays, path, names)
    _enough(path, count, samples)
    labels = arrays.get("y_train" if "x_train" in arrays else "y")
    if labels is None or labels.shape != (count,):
        labels = np.zeros(count, np.int64)
    rows = _in_turn(labels, samples, seed)
    return np.stack([fit(picture(int(row)), size, size, 3) for row in rows]).astype(np.float64)


def _reader(arrays: dict[str, NDArray[Any]], path: Path, names: str) -> tuple[int, Callable[[int], Pixels]]:
    """How many pictures there are, and what gives one of them."""
    if "x_train" in arrays:
        stored = arrays["x_train"]
        if stored.dtype == np.uint8 and stored.ndim == 4 and stored.shape[3] == 3 and stored.size:
            return len(stored), lambda row: stored[row]
        found = f"x_train {stored.dtype} {stored.shape}"
        raise UsageError(f"{path} cannot be used", expected=_EXPECTED, found=found, fix="Convert that array")
    if not {"jpeg", "offsets"} <= arrays.keys():
        raise UsageError(f"{path} holds no pictures", expected=_EXPECTED, found=names or "no array", fix="Name another")
    jpeg, offsets = arrays["jpeg"], arrays["offsets"]
    if jpeg.dtype != np.uint8 or offsets.ndim != 1 or not np.issubdtype(offsets.dtype, np.integer):
        found = f"jpeg {jpeg.dtype} {jpeg.shape}, offsets {offsets.dtype} {offsets.shape}"
        raise UsageError(f"{path} cannot be used", expected=_EXPECTED, found=found, fix="Convert those arrays")

    def decoded(row: int) -> Pixels:
        try:
            return decode(jpeg[offsets[row] : offsets[row + 1]].tobytes())
        except ImageRefused as error:
            raise UsageError(f"picture {row} of {path} cannot be used: {error}") from error

    return max(0, len(offsets) - 1), decoded
