import os
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from export.runtime.errors import ImageRefused
from export.runtime.image import IMAGE_SUFFIXES, MAX_COLOUR_PIXELS, MAX_PIXELS, MAX_SIDE, decode, fit, load

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
RAMP16 = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
COLOUR = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=2)


def encoded(pixels: Any, kind: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = BytesIO()
    (picture.convert(mode) if mode else picture).save(buffer, kind, **options)
    return buffer.getvalue()


def with_alpha(pixels: np.ndarray, alpha: int, corner: int) -> Image.Image:
    picture = Image.fromarray(pixels)
    veil = Image.new("L", picture.size, alpha)
    veil.putpixel((0, 0), corner)
    picture.putalpha(veil)
    return picture


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(encoded(RAMP), RAMP, id="grey"),
        pytest.param(encoded(COLOUR), COLOUR, id="rgb"),
        pytest.param(encoded(COLOUR, "BMP"), COLOUR, id="bmp"),
        pytest.param(encoded(COLOUR, "TIFF"), COLOUR, id="tiff"),
        pytest.param(encoded(COLOUR, "PPM"), COLOUR, id="ppm"),
        pytest.param(encoded(COLOUR, "WEBP", lossless=True), COLOUR, id="webp"),
        pytest.param(encoded(RAMP > 100), np.where(RAMP > 100, 255, 0), id="one bit"),
        pytest.param(encoded(with_alpha(RAMP, 255, 255)), RAMP, id="opaque grey alpha"),
        pytest.param(encoded(with_alpha(COLOUR, 255, 255)), COLOUR, id="opaque rgb alpha"),
        pytest.param(encoded(RAMP, mode="P"), np.stack([RAMP] * 3, axis=2), id="palette"),
        pytest.param(encoded(RAMP, "GIF"), np.stack([RAMP] * 3, axis=2), id="still gif"),
        pytest.param(
            encoded(RAMP, mode="P", transparency=b"\xff" * 256),
            np.stack([RAMP] * 3, axis=2),
            id="opaque palette alpha",
        ),
        pytest.param(encoded(RAMP16), RAMP16 >> 8, id="16-bit png"),
        pytest.param(encoded(RAMP16, "TIFF"), RAMP16 >> 8, id="16-bit tiff"),
        pytest.param(
            encoded(Image.frombytes("I;16B", (8, 8), RAMP16.astype(">u2").tobytes()), "TIFF"),
            RAMP16 >> 8,
            id="16-bit big-endian tiff",
        ),
        pytest.param(b"P5 8 8 65535\n" + RAMP16.astype(">u2").tobytes(), RAMP16 >> 8, id="16-bit pgm, which is mode I"),
    ],
)
def test_decode_gives_the_pixels_as_stored(data: bytes, expected: np.ndarray, tmp_path: Path) -> None:
    pixels = decode(data)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)
    path = tmp_path / "picture"
    path.write_bytes(data)
    np.testing.assert_array_equal(decode(path), expected)


def test_the_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(decode(encoded(COLOUR[:4], exif=exif)), COLOUR[:4])


NOISE = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"hello, this is text", "is not a picture", id="text"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture", id="eps"),
        pytest.param(encoded(NOISE)[:-300], "is damaged", id="truncated png"),
        pytest.param(encoded(NOISE, "JPEG")[:-300], "is damaged", id="truncated jpeg"),
        pytest.param(encoded(NOISE)[:20], "damaged|not a picture", id="only a header"),
        pytest.param(encoded(with_alpha(RAMP, 255, 254)), "partly transparent", id="transparent grey"),
        pytest.param(encoded(with_alpha(COLOUR, 255, 0)), "partly transparent", id="transparent rgb"),
        pytest.param(encoded(RAMP, mode="P", transparency=4), "partly transparent", id="palette entry"),
        pytest.param(encoded(RAMP, mode="P", transparency=b"\x80" * 256), "partly transparent", id="palette alpha"),
        pytest.param(encoded(RAMP, transparency=4), "partly transparent", id="grey colour key"),
        pytest.param(encoded(COLOUR, transparency=(0, 0, 255)), "partly transparent", id="rgb colour key"),
        pytest.param(encoded(COLOUR, "JPEG", mode="CMYK"), "mode CMYK", id="cmyk"),
        pytest.param(encoded(Image.new("LAB", (8, 8)), "TIFF"), "mode LAB", id="lab"),
        pytest.param(encoded(COLOUR, "TIFF", mode="YCbCr"), "mode YCbCr", id="ycbcr"),
        pytest.param(encoded(RAMP.astype(np.float32), "TIFF"), "mode F", id="float"),
        pytest.param(encoded(RAMP.astype(np.int32), "TIFF"), "32-bit", id="32-bit tiff of small values"),
        *(
            pytest.param(
                encoded(RAMP, kind, save_all=True, append_images=[Image.fromarray(RAMP.T)]),
                "holds several pictures",
                id=f"several frames of {kind}",
            )
            for kind in ("GIF", "TIFF", "PNG", "WEBP")
        ),
    ],
)
def test_decode_refuses_what_it_would_have_to_guess(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(ImageRefused, match=said) as refused:
        decode(path)
    assert str(path) in str(refused.value)
    assert refused.value.fix
    with pytest.raises(ImageRefused, match=said):
        decode(data)


def bitmap_claiming(width: int, height: int, pixels: np.ndarray = RAMP) -> bytes:
    data = bytearray(encoded(pixels, "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


@pytest.mark.parametrize("width", [MAX_PIXELS // 1000 + 1, 1_000_000])
def test_a_huge_picture_is_refused_by_its_header_alone(width: int) -> None:
    with pytest.raises(ImageRefused, match="huge image"):
        decode(bitmap_claiming(width, 1000))


def test_in_colour_a_picture_is_huge_sooner() -> None:
    """A few kilobytes of it would take gigabytes: its copies hold up to four bytes a pixel each."""
    width = MAX_COLOUR_PIXELS // 1000 + 1
    with pytest.raises(ImageRefused, match=f"at most {MAX_COLOUR_PIXELS} pixels"):
        decode(bitmap_claiming(width, 1000, COLOUR))
    with pytest.raises(ImageRefused, match="is damaged"):
        decode(bitmap_claiming(width, 1000, RAMP))


@pytest.mark.parametrize("size", [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)])
def test_a_thin_picture_is_refused_whose_resizing_takes_memory_by_its_side(size: tuple[int, int]) -> None:
    with pytest.raises(ImageRefused, match=f"{MAX_SIDE} a side"):
        decode(encoded(Image.new("L", size), "PNG"))


def test_the_frames_of_a_film_are_not_decoded_to_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    film = encoded(RAMP, "GIF", save_all=True, append_images=[Image.fromarray(np.roll(RAMP, n)) for n in range(1, 50)])
    seek, sought = GifImageFile._seek, list[int]()

    def watched(self: GifImageFile, frame: int, update_image: bool = True) -> None:
        sought.append(frame)
        seek(self, frame, update_image)

    monkeypatch.setattr(GifImageFile, "_seek", watched)
    with pytest.raises(ImageRefused, match="holds several pictures"):
        decode(film)
    assert max(sought) == 1


def test_a_picture_pillow_would_warn_of_is_decoded_without_a_warning() -> None:
    side = 9_500
    assert 89_478_485 < side * side <= MAX_PIXELS
    pixels = decode(encoded(Image.new("1", (side, side), 1), "PNG", compress_level=1))
    assert pixels.shape == (side, side)


@pytest.mark.parametrize("name", ["missing.png", "folder.png", "pipe.png", "x" * 300])
def test_only_plain_files_are_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageRefused, match="cannot read"):
        decode(tmp_path / name)


@pytest.mark.parametrize(("height", "width"), [(5, 3), (8, 8), (20, 31)])
def test_fit_is_pillows_conversion_and_then_its_bilinear_filter(height: int, width: int) -> None:
    size = (width, height)
    grey, colour = Image.fromarray(RAMP), Image.fromarray(COLOUR)
    for pixels, channels, reference in (
        (RAMP, 1, grey),
        (RAMP[:, :, None], 1, grey),
        (RAMP, 3, grey.convert("RGB")),
        (COLOUR, 3, colour),
        (COLOUR, 1, colour.convert("L")),
        (RAMP16, 1, Image.fromarray((RAMP16 >> 8).astype(np.uint8))),
    ):
        fitted = fit(pixels, height, width, channels)
        assert fitted.dtype == np.uint8
        expected = np.asarray(reference.resize(size, Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(fitted, expected.reshape(height, width, channels))


def test_fit_averages_what_it_reduces() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(fit(stripes, 8, 8, 1).astype(int) - 127).max() <= 16


def test_fit_keeps_the_pixels_of_a_picture_of_the_right_size_and_copies_them() -> None:
    fitted = fit(RAMP, 8, 8, 1)
    np.testing.assert_array_equal(fitted[:, :, 0], RAMP)
    assert not np.shares_memory(fitted, RAMP)
    assert fitted.flags.writeable


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8), bool),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((2, 8, 8, 1), np.uint8),
        np.zeros((8,), np.uint8),
        np.zeros((0, 8), np.uint8),
    ],
)
def test_fit_refuses_other_pixels(pixels: np.ndarray) -> None:
    with pytest.raises(ImageRefused, match="cannot be used"):
        fit(pixels, 4, 4, 1)


def test_load_is_decode_then_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(COLOUR))
    np.testing.assert_array_equal(load(path, 4, 6, 1), fit(COLOUR, 4, 6, 1))


def test_the_suffixes_are_lower_case_with_a_dot() -> None:
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)
