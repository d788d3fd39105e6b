"""The one rule by which a picture becomes the network's input, in training and on the station alike."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from export.runtime.errors import ImageRefused

RESIZE_RULE: Final = "stretch-bilinear-antialias-v1"
MAX_PIXELS: Final = 100_000_000
MAX_COLOUR_PIXELS: Final = 50_000_000  # in any mode but 8-bit grey, whose copies take more: up to 0.9 GB
MAX_SIDE: Final = 65_535  # of JPEG; resizing takes memory by the side, whatever the area
IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".gif"})

# Pillow would try every format it knows, some of which start other programs; these are the ones meant.
_FORMATS: Final = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
# Mode "I" is 32 bits wide; only these formats use it for values of 16 bits.
_SIXTEEN_BIT_FORMATS: Final = ("PNG", "PPM")
_RESAVE: Final = "Save the picture as 8-bit or 16-bit grey, or as 8-bit RGB"


def decode(source: Path | bytes) -> NDArray[np.uint8]:
    """Return a picture's pixels as stored: uint8 (height, width) for grey, (height, width, 3) for RGB.

    Palettes become RGB, one bit becomes 0 and 255, an opaque alpha channel is dropped. Sixteen bits a
    sample become eight by ``>> 8``, so the scale does not depend on the picture's content. The EXIF
    orientation is not applied: a station's camera does not turn between two pictures.

    Raises ImageRefused for a file that is missing, empty, corrupt, huge (over MAX_PIXELS, MAX_SIDE, or
    MAX_COLOUR_PIXELS where it is not 8-bit grey), of several frames, partly transparent, or of a kind whose
    meaning as grey or RGB would be a guess.
    """
    name = "the picture" if isinstance(source, bytes) else str(source)
    with _stream(source, name) as stream, _explained(name), Image.open(stream, formats=_FORMATS) as picture:
        _check_header(picture, name)
        picture.load()
        return _eight_bits(picture, name)


def fit(image: NDArray[np.generic], height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Return the pixels as the network takes them: uint8 (height, width, channels), channels 1 or 3.

    Takes uint8 (H, W), (H, W, 1) or (H, W, 3), or uint16 (H, W), which is scaled by ``>> 8``. Grey and
    RGB are converted by Pillow's "L" and "RGB" first; then the picture is stretched by Pillow's bilinear
    filter, which averages over the area it reduces. A picture of the right size keeps its pixels; one of the right
    shape, too, is returned as it is.

    Raises ImageRefused for any other shape or dtype.
    """
    if image.dtype == np.uint8 and image.shape == (height, width, channels):
        return np.ascontiguousarray(image, np.uint8)
    pixels = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
    if pixels.dtype == np.uint16 and pixels.ndim == 2:
        pixels = _high_byte(pixels)
    coloured = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or coloured) or 0 in pixels.shape:
        raise ImageRefused(
            "these pixels cannot be used",
            expected="uint8 (height, width), (height, width, 1) or (height, width, 3), or uint16 grey",
            found=f"{image.dtype} {image.shape}",
            fix="Convert the pixels first, for instance by decode()",
        )
    picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.array(picture, dtype=np.uint8).reshape(height, width, channels)


def load(path: Path, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Return a picture file as the network takes it: ``fit(decode(path), ...)``."""
    return fit(decode(path), height, width, channels)


@contextmanager
def _stream(source: Path | bytes, name: str) -> Iterator[IO[bytes]]:
    try:
        if isinstance(source, Path) and not source.is_file():
            found = "nothing" if not source.exists() else "something that is not a plain file"
            raise ImageRefused(f"cannot read {name}", expected="a picture file", found=found, fix="Name a file")
        stream: IO[bytes] = BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    except OSError as error:
        raise ImageRefused(f"cannot read {name}", found=error.strerror, fix="Check its permissions") from error
    with stream:
        if not stream.seek(0, os.SEEK_END):
            raise ImageRefused(
                f"{name} is empty",
                expected="a picture",
                found="0 bytes",
                fix="Take or copy the picture again",
            )
        stream.seek(0)
        yield stream


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises on a hostile or broken file into ImageRefused."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    except ImageRefused:
        raise
    except UnidentifiedImageError as error:
        raise ImageRefused(
            f"{name} is not a picture",
            expected="a picture of one of the formats " + ", ".join(_FORMATS),
            found="other content, whatever the file's name says",
            fix="Export it again as PNG",
        ) from error
    except Image.DecompressionBombError as error:
        raise _huge(name, "far more") from error
    except Exception as error:
        raise ImageRefused(
            f"{name} is damaged",
            expected="a whole picture file",
            found=str(error) or type(error).__name__,
            fix="Take or copy the picture again",
        ) from error


def _huge(name: str, found: str, limit: int = MAX_PIXELS) -> ImageRefused:
    expected = f"at most {limit} pixels, and {MAX_SIDE} a side"
    return ImageRefused(f"{name} is a huge image", expected=expected, found=found, fix="Crop or reduce it first")


def _check_header(picture: Image.Image, name: str) -> None:
    limit = MAX_PIXELS if picture.mode in ("1", "L") else MAX_COLOUR_PIXELS
    if picture.width * picture.height > limit or max(picture.size) > MAX_SIDE:
        raise _huge(name, f"{picture.width} x {picture.height} of mode {picture.mode}", limit)
    # Not how many: to count them, Pillow decodes every frame of a GIF.
    if getattr(picture, "is_animated", False):
        raise ImageRefused(
            f"{name} holds several pictures",
            expected="one frame or page",
            found="more",
            fix="Save each frame as a file of its own",
        )


def _eight_bits(picture: Image.Image, name: str) -> NDArray[np.uint8]:
    mode = picture.mode
    if mode in ("P", "PA", "RGBA", "LA"):
        return _opaque(picture, name)
    if "transparency" in picture.info:
        raise _transparent(name, "one colour declared transparent")
    if mode == "1":
        return np.array(picture.convert("L"))
    if mode in ("L", "RGB"):
        return np.array(picture)
    if mode.startswith("I;16") or (mode == "I" and picture.format in _SIXTEEN_BIT_FORMATS):
        return _high_byte(np.asarray(picture))
    found = "32-bit whole numbers (mode I)" if mode == "I" else f"mode {mode}"
    raise ImageRefused(f"{name} is neither grey nor RGB", expected="grey or RGB", found=found, fix=_RESAVE)


def _opaque(picture: Image.Image, name: str) -> NDArray[np.uint8]:
    # Straight from a palette to RGB Pillow would forget the palette's own alpha.
    rgba = picture.convert("RGBA")
    if np.asarray(rgba.getchannel("A")).min() < 255:
        raise _transparent(name, "transparent pixels")
    return np.array(picture.getchannel("L") if picture.mode == "LA" else rgba.convert("RGB"))


def _transparent(name: str, found: str) -> ImageRefused:
    fix = "Save the picture without transparency, over the background you mean"
    return ImageRefused(f"{name} is partly transparent", expected="opaque pixels", found=found, fix=fix)


def _high_byte(samples: NDArray[np.generic]) -> NDArray[np.uint8]:
    return (samples.astype(np.int32) >> 8).astype(np.uint8)
