"""The last parts for people to look at: kept in memory, small pictures of them made only when a page asks."""

import threading
from collections import deque
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.runtime.errors import ImageRefused
from export.runtime.image import decode

PARTS: Final = 24
_SIDE: Final = 192
_PICTURES_BYTES: Final = 64_000_000


@dataclass(slots=True)
class _Shown:
    number: int
    source: str | None
    facts: dict[str, object]
    picture: bytes | None
    small: bytes | None = field(default=None)


class Board:
    """The last parts, newest first; thread-safe, and bounded however large the pictures are."""

    def __init__(self) -> None:
        self._parts: deque[_Shown] = deque(maxlen=PARTS)
        self._number = 0
        self._lock = threading.Lock()

    def add(self, source: str | None, facts: dict[str, object], picture: bytes | None) -> None:
        """Show a part by its facts, unless one of this source is shown already (its picture was sent again)."""
        with self._lock:
            if source is not None and any(part.source == source for part in self._parts):
                return
            self._number += 1
            self._parts.appendleft(_Shown(self._number, source, facts, picture))
            held = 0
            for part in self._parts:
                held += len(part.picture or b"")
                if held > _PICTURES_BYTES:
                    part.picture = None

    def parts(self) -> list[dict[str, object]]:
        """Return the facts of the last parts, newest first, each with its ``number``."""
        with self._lock:
            return [{"number": part.number, **part.facts} for part in self._parts]

    def small_picture(self, number: int) -> bytes | None:
        """Return a part's picture as a small JPEG; None where it is gone, too large to keep, or cannot be read."""
        with self._lock:
            part = next((part for part in self._parts if part.number == number), None)
            if part is None or part.small is not None or part.picture is None:
                return part.small if part else None
            picture = part.picture
        small = _small(picture)
        with self._lock:
            part.small, part.picture = small, None  # an unreadable picture is not tried twice either
        return small


def _small(picture: bytes) -> bytes | None:
    try:
        pixels: NDArray[np.uint8] = decode(picture)
    except ImageRefused:
        return None
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
