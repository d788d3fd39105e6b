"""Which pictures are kept beside the log, where, and which go first when the room for them is used up."""

import os
import sqlite3
from pathlib import Path
from typing import Final

from export.runtime.log.entry import Entry

FOLDER: Final = "log/pictures"

_INCOMING: Final = "incoming.partial"
_PASSING: Final = ("pass", "class")
_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"BM", ".bmp"), (b"GIF8", ".gif"),
    (b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"II+\0", ".tif"), (b"MM\0+", ".tif"),
    (b"P5", ".pgm"), (b"P2", ".pgm"), (b"P6", ".ppm"), (b"P3", ".ppm"), (b"P4", ".ppm"), (b"P1", ".ppm"),
)  # fmt: skip


def suffix_of(picture: bytes) -> str:
    """Return the file suffix that belongs to the content, ``.bin`` for what begins like no picture."""
    if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for start, suffix in _SIGNATURES if picture.startswith(start)), ".bin")


def place(sha256: str, suffix: str) -> str:
    """Return where a kept picture lies, below the store."""
    return f"{FOLDER}/{sha256[:2]}/{sha256}{suffix}"


def passed(entry: Entry) -> bool:
    """Return whether the part went on without a fault, so that its picture is one of many."""
    return entry.verdict in _PASSING and entry.fault is None


def wanted(entry: Entry, share: float) -> bool:
    """Return whether the picture of this entry, whose ``sha256`` is known, is to be kept.

    Always, unless it passed; of those that passed a ``share`` in [0, 1], drawn by the picture's own hash: the same
    picture is always decided alike, and what parts come before it does not matter.
    """
    return not passed(entry) or int((entry.sha256 or "f" * 64)[:13], 16) / 2**52 < share


class Pictures:
    """The pictures below a store, at most ``limit_mb`` (10^6 bytes); what is there stands in the log's own tables.

    The methods run inside a transaction of the log, which only one process has at a time. Files are made before
    the commit and deleted before it, so a stop in between leaves at worst a row whose picture is gone, which is
    the next to go itself, or a picture that has no row yet and is taken over when its part is inspected again.
    """

    def __init__(self, store: Path, limit_mb: float) -> None:
        self._store = store
        self._limit = int(limit_mb * 1e6)

    def keep(self, connection: sqlite3.Connection, row: int, entry: Entry, picture: bytes) -> None:
        """Keep the picture of a row and make room for it; where it cannot be written or has no room, it is not kept."""
        connection.execute("SAVEPOINT keeping")
        try:
            self._keep(connection, row, entry, picture)
        except OSError:  # a full disk takes the picture; the verdict is worth more
            connection.execute("ROLLBACK TO keeping")
        connection.execute("RELEASE keeping")

    def _keep(self, connection: sqlite3.Connection, row: int, entry: Entry, picture: bytes) -> None:
        if len(picture) > self._limit:  # it would drive out all others, and then itself
            return
        sha256 = entry.sha256 or ""
        connection.execute(
            "INSERT INTO pictures VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET worth = max(worth, excluded.worth), verdict = excluded.verdict",
            (bytes.fromhex(sha256), suffix_of(picture), len(picture), 0 if passed(entry) else 1, row),
        )
        self._make_room(connection)
        if connection.execute("SELECT 1 FROM pictures WHERE sha256 = ?", (bytes.fromhex(sha256),)).fetchone():
            self._write(self._store / place(sha256, suffix_of(picture)), picture)

    def _make_room(self, connection: sqlite3.Connection) -> None:
        """Let the oldest go, passes before all others, corrected ones last; row ids tell the age, no clock does."""
        while connection.execute("SELECT bytes FROM kept").fetchone()[0] > self._limit:
            sha256, suffix = connection.execute(
                "SELECT sha256, suffix FROM pictures ORDER BY worth, verdict LIMIT 1"
            ).fetchone()
            (self._store / place(sha256.hex(), suffix)).unlink(missing_ok=True)
            connection.execute("DELETE FROM pictures WHERE sha256 = ?", (sha256,))

    def _write(self, path: Path, picture: bytes) -> None:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        incoming = self._store / FOLDER / _INCOMING  # one name: a stop leaves one such file at most
        with incoming.open("wb") as stream:
            stream.write(picture)
            stream.flush()
            os.fsync(stream.fileno())
        incoming.replace(path)
