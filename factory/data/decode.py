"""From files to one array: hash, decode once, fit by the one resize rule."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.runtime import image
from export.runtime.errors import ImageRefused
from factory.data.index import Item
from factory.profiles import InputSize
from factory.workspace import sha256


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture: uint8 (H, W, C) as the network sees it, its size as stored, the hash of its pixels."""

    item: Item
    pixels: NDArray[np.uint8]
    height: int
    width: int
    content: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that is left out, and why."""

    item: Item
    reason: str


def file_hashes(root: Path, items: Sequence[Item]) -> list[str]:
    """sha256 of every file's bytes, in order."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda item: sha256((root / item.path).read_bytes()), items))


def _decode(root: Path, item: Item, size: InputSize) -> Picture | Unreadable:
    try:
        pixels = image.decode(root / item.path)
        fitted = image.fit(pixels, size.height, size.width, size.channels)
    except ImageRefused as error:
        return Unreadable(item, str(error))
    content = sha256(f"{pixels.shape} {pixels.dtype} ".encode() + pixels.tobytes())
    return Picture(item, fitted, pixels.shape[0], pixels.shape[1], content)


def decode_all(
    root: Path, items: Sequence[Item], size: InputSize, tick: Callable[[], None]
) -> tuple[list[Picture], list[Unreadable]]:
    """Decode every picture, in order; `tick` is called after each."""
    pictures: list[Picture] = []
    unreadable: list[Unreadable] = []
    with ThreadPoolExecutor() as pool:  # Pillow releases the interpreter lock while it decodes and resizes
        for result in pool.map(lambda item: _decode(root, item, size), items):
            if isinstance(result, Picture):
                pictures.append(result)
            else:
                unreadable.append(result)
            tick()
    return pictures, unreadable
