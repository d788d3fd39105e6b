import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from export.runtime import image
from factory.data.decode import Picture, decode_all, file_hashes
from factory.data.index import Item
from factory.profiles import InputSize

SIZE = InputSize(height=16, width=24, channels=1)


def test_pictures_are_fitted_by_the_stations_rule_in_the_order_asked(
    tmp_path: Path, paint: Callable[..., Path]
) -> None:
    items = [Item(f"{i}.png", "a") for i in range(12)]
    for i, item in enumerate(items):
        paint(tmp_path / item.path, i, (20 + i, 31))
    ticks: list[int] = []
    pictures, unreadable = decode_all(tmp_path, items, SIZE, lambda: ticks.append(1))
    assert [picture.item for picture in pictures] == items
    assert (unreadable, len(ticks)) == ([], 12)
    for picture in pictures:
        np.testing.assert_array_equal(picture.pixels, image.load(tmp_path / picture.item.path, 16, 24, 1))
        assert (picture.pixels.shape, picture.pixels.dtype) == ((16, 24, 1), np.uint8)
    assert [(p.height, p.width) for p in pictures] == [(20 + i, 31) for i in range(12)]


def test_content_is_that_of_the_pixels_whatever_the_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12), np.uint8)
    other = pixels.copy()
    other[3, 4] ^= 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.bmp")
    Image.fromarray(other).save(tmp_path / "c.png")
    Image.fromarray(pixels.reshape(8, 18)).save(tmp_path / "d.png")
    items = [Item(name, "x") for name in ("a.png", "b.bmp", "c.png", "d.png")]
    a, b, c, d = (picture.content for picture in decode_all(tmp_path, items, SIZE, lambda: None)[0])
    assert a == b
    assert len({a, c, d}) == 3
    assert file_hashes(tmp_path, items) == [
        hashlib.sha256((tmp_path / item.path).read_bytes()).hexdigest() for item in items
    ]


def test_what_cannot_be_read_is_set_aside_with_its_reason(tmp_path: Path, paint: Callable[..., Path]) -> None:
    good = paint(tmp_path / "good.png", 1)
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "text.png").write_text("good, bad, ugly")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.zeros((9, 9), np.float32)).save(tmp_path / "float.tiff")
    items = [Item(name, "x") for name in ("cut.png", "good.png", "text.png", "empty.png", "float.tiff", "gone.png")]
    pictures, unreadable = decode_all(tmp_path, items, SIZE, lambda: None)
    assert [picture.item.path for picture in pictures if isinstance(picture, Picture)] == ["good.png"]
    said = {bad.item.path: bad.reason for bad in unreadable}
    assert list(said) == ["cut.png", "text.png", "empty.png", "float.tiff", "gone.png"]
    for name, words in (
        ("cut.png", "is damaged"),
        ("text.png", "is not a picture"),
        ("empty.png", "is empty"),
        ("float.tiff", "neither grey nor RGB"),
        ("gone.png", "found nothing"),
    ):
        assert words in said[name]
