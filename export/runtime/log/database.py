"""One connection to the log's file that outlives faults: after an error it is opened anew, without a restart."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from export.runtime.errors import EnvironmentLacks
from export.runtime.log.schema import settle

BUSY_S: Final = 5.0  # how long another process may hold the log before it is a fault
SYNCHRONOUS: Final = "FULL"  # what was reported outlives a power cut: each commit waits for the disk

_FAULTS: Final = {
    sqlite3.SQLITE_BUSY: ("is locked", "the log free within {busy:g} s", "End the other program that holds it open"),
    sqlite3.SQLITE_FULL: ("cannot grow", "space for more rows", "Free some space; the next part is then logged again"),
    sqlite3.SQLITE_CORRUPT: ("is damaged", "a sound SQLite file", ""),
    sqlite3.SQLITE_NOTADB: ("is damaged", "a sound SQLite file", ""),
}
_RESCUE: Final = "Stop the station and move the file away with those beside it (sqlite3 FILE .recover saves its rows)"
_ELSE: Final = ("cannot be used", "a file that can be read and written", "Check the disk and the file's permissions")


class Database:
    """A SQLite file in WAL mode; thread-safe, and safe beside other processes.

    Every fault is an EnvironmentLacks that says what is wrong with the file. The connection is then dropped, and the
    next call opens another: once the fault is over, it works again. A file that vanished is not made anew behind the
    station's back: put back, it is used again.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        if create:
            with _told(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        with self.reading():
            pass

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection, outside of any transaction of its own."""
        with self._lock, _told(self.path):
            try:
                yield self._current()
            except sqlite3.Error:
                self._drop()
                raise

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection inside a transaction, committed and on disk behind it, undone where it raises."""
        with self.reading() as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection; a later call would open it again."""
        with self._lock:
            self._drop()

    def _current(self) -> sqlite3.Connection:
        found = self.path.stat()
        file = (found.st_dev, found.st_ino)
        if self._file != file:  # SQLite would go on writing into a file that was moved away or deleted
            self._drop()
        if self._connection is None:
            self._connection, self._file = _open(self.path), file
        return self._connection

    def _drop(self) -> None:
        connection, self._connection, self._file = self._connection, None, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(os.fspath(path.absolute()))}?mode=rw",
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        mode = _write_ahead(connection)
        if mode != "wal":
            raise _fault(path, *_ELSE, f"a file system on which SQLite keeps no write-ahead log (mode {mode})")
        connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
        connection.execute("PRAGMA foreign_keys = ON")
        settle(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection) -> str:
    """Switch to the write-ahead log; SQLite itself does not wait where another process does so at the same moment."""
    until = time.monotonic() + BUSY_S
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.005)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        fix = "Put it back, or mount its disk again; to begin a new log start the station again"
        raise _fault(path, "is gone", "the file that was there", fix, "nothing") from error
    except OSError as error:
        raise _fault(path, *_ELSE, error.strerror or str(error)) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        what, expected, fix = _FAULTS.get(code, _ELSE)
        raise _fault(path, what, expected.format(busy=BUSY_S), fix or _RESCUE, str(error)) from error


def _fault(path: Path, what: str, expected: str, fix: str, found: str) -> EnvironmentLacks:
    return EnvironmentLacks(f"the log {path} {what}", expected=expected, found=found, fix=fix)
