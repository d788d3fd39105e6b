"""The log that the station writes: each verdict durable when it is reported, and never changed."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from export.runtime.log.database import Database
from export.runtime.log.entry import FIELDS, Entry
from export.runtime.log.history import History, find, log_file, plain_text
from export.runtime.log.pictures import Pictures, wanted

__all__ = ["Entry", "Log"]

_WRITTEN: Final = tuple(name for name in FIELDS if name != "kept")
_INSERT: Final = f"INSERT INTO verdicts ({', '.join(_WRITTEN)}) VALUES ({', '.join('?' * len(_WRITTEN))})"


class Log(History):
    """The log of a store, made where there is none. A context manager; thread-safe, and safe beside other processes.

    Rows are kept for ever, and take about 300 bytes each with their indexes: a part every second is 9.4 GB a year, a
    part every ten seconds 0.94 GB. Their order is that of their ids, whatever the clock said. Pictures are kept as
    ``pictures.wanted`` says, within ``pictures_mb`` (10^6 bytes); of those that passed a share of ``keep_passes``,
    in [0, 1].
    """

    def __init__(self, store: Path, *, keep_passes: float, pictures_mb: float) -> None:
        """Open or make the log; raises EnvironmentLacks where its file cannot be used."""
        self._database = Database(log_file(store), create=True)
        self._pictures = Pictures(store, pictures_mb)
        self._keep_passes = keep_passes

    def record(self, entry: Entry, picture: bytes | None) -> Entry:
        """Write a verdict and return it as it stands in the log, on disk when this returns.

        ``kept`` is decided here, and ``sha256`` taken of ``picture`` where the entry has none. A ``source`` that is
        there keeps its first verdict: that row is returned, so its ``time`` and ``verdict`` may be other than given.
        Numbers that are not finite become None. A picture that cannot be kept leaves ``kept`` None.

        Raises EnvironmentLacks where the row cannot be written; it is then not reported, and may be recorded again.
        """
        entry = _clean(entry, picture)
        with self._database.writing() as connection:
            there = find(connection, entry.source)
            if there is not None:
                return there
            row = connection.execute(_INSERT, _values(entry)).lastrowid
            if picture is not None and row is not None and wanted(entry, self._keep_passes):
                self._pictures.keep(connection, row, entry, picture)
            written = find(connection, entry.source)
        assert written is not None
        return written


def _clean(entry: Entry, picture: bytes | None) -> Entry:
    if entry.sha256 is None and picture is not None:
        entry = replace(entry, sha256=hashlib.sha256(picture).hexdigest())
    return Entry(**{name: _storable(getattr(entry, name)) for name in FIELDS})


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return plain_text(value)
    return value if value is None or math.isfinite(value) else None


def _values(entry: Entry) -> list[Any]:
    sha256 = None if entry.sha256 is None else bytes.fromhex(entry.sha256)
    return [sha256 if name == "sha256" else getattr(entry, name) for name in _WRITTEN]
