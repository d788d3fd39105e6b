"""What is on record: read by part, by source, from the end or from the beginning; and what operators corrected."""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from export.runtime.errors import UsageError
from export.runtime.log.database import Database
from export.runtime.log.entry import FIELDS, Entry, Feedback, Row
from export.runtime.log.pictures import place

BATCH: Final = 1000  # rows read at a time

_ROWS: Final = (
    "SELECT v.id, v.part, v.source, v.time, v.bundle, v.verdict, v.label, v.score, v.threshold, v.novelty, "
    "v.brightness, v.sharpness, v.ms, v.sha256, p.suffix, v.reason, v.fault, f.time, f.label, f.note FROM verdicts v "
    "LEFT JOIN pictures p ON p.sha256 = v.sha256 "
    "LEFT JOIN feedback f ON f.id = (SELECT max(id) FROM feedback WHERE verdict = v.id) "
)


def log_file(store: Path) -> Path:
    """Return where the log of a station's folder lies."""
    return store / "log" / "inspections.sqlite"


def plain_text(text: str) -> str:
    """Return a text that a database and a file take: bytes of a file's name that are no UTF-8 are written as \\xff."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class History:
    """The log of a station that has one: reading, and the operators' corrections. A context manager; thread-safe.

    All methods raise EnvironmentLacks where the file cannot be used, and work again once it can.
    """

    def __init__(self, store: Path) -> None:
        """Open the log of a store; raises UsageError where nothing was logged yet."""
        if not log_file(store).exists():
            raise UsageError(
                "this station has logged nothing yet",
                expected=f"a log at {log_file(store)}",
                found="none",
                fix="Inspect some parts first, or name the station's folder by --store",
            )
        self._database = Database(log_file(store), create=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def entry_of(self, source: str) -> Entry | None:
        """Return the entry of this very picture, None where it was not recorded."""
        with self._database.reading() as connection:
            return find(connection, source)

    def last(self, number: int) -> list[Entry]:
        """Return the latest entries, newest first."""
        return [row.entry for row in self.latest(number)]

    def latest(self, number: int) -> list[Row]:
        """Return the latest rows, newest first."""
        return self._select("ORDER BY v.id DESC LIMIT ?", [number])

    def of_part(self, part: str) -> list[Row]:
        """Return the latest rows of a part, or the row of a source, newest first, BATCH at most."""
        text = plain_text(part)
        named = self._select("WHERE v.part = ? ORDER BY v.id DESC LIMIT ?", [text, BATCH])
        return named or self._select("WHERE v.source = ?", [text])

    def since(self, row: int = 0, *, start: str | None = None, end: str | None = None) -> Iterator[Row]:
        """Yield the rows behind an id in their order, those with ``start`` <= time < ``end`` (UTC, as in an entry).

        Read in batches: memory is flat, and nobody who writes waits. Rows that come meanwhile are told, too.
        """
        within = "AND (?2 IS NULL OR v.time >= ?2) AND (?3 IS NULL OR v.time < ?3)"
        where = f"WHERE v.id > ?1 {within} ORDER BY v.id LIMIT ?4"
        while batch := self._select(where, [row, start, end, BATCH]):
            yield from batch
            row = batch[-1].id

    def corrected(self) -> Iterator[Row]:
        """Yield the rows that an operator corrected, in their order, with the latest correction."""
        row = 0
        where = "WHERE v.id IN (SELECT DISTINCT verdict FROM feedback WHERE verdict > ? ORDER BY verdict LIMIT ?)"
        while batch := self._select(f"{where} ORDER BY v.id", [row, BATCH]):
            yield from batch
            row = batch[-1].id

    def counts(self, bundle: str | None = None) -> dict[str, int]:
        """Return how many rows have each verdict, of one bundle or of all; at once, however long the log is."""
        sql = "SELECT verdict, sum(number) FROM counts WHERE ?1 IS NULL OR bundle = ?1 GROUP BY verdict"
        with self._database.reading() as connection:
            return dict(connection.execute(sql, [bundle]))

    def last_before(self, time: str) -> int:
        """Return the id of the last row before a time (UTC, as in an entry), 0 where there is none.

        Rows are read back from the end, so that it takes as long as there are rows behind it.
        """
        with self._database.reading() as connection:
            sql = "SELECT id FROM verdicts WHERE time < ? ORDER BY id DESC LIMIT 1"
            found = connection.execute(sql, [time]).fetchone()
        return 0 if found is None else int(found[0])

    def counts_behind(self, row: int) -> tuple[int, dict[str, int]]:
        """Return the id of the last row, and how many rows behind the id ``row`` have each verdict."""
        with self._database.reading() as connection:
            sql = "SELECT verdict, count(*), max(id) FROM verdicts WHERE id > ? GROUP BY verdict"
            found = connection.execute(sql, [row]).fetchall()
        return max((last for *_, last in found), default=row), {verdict: number for verdict, number, _ in found}

    def feedback_of(self, row: int) -> list[Feedback]:
        """Return every correction of a row, oldest first."""
        sql = "SELECT time, label, note FROM feedback WHERE verdict = ? ORDER BY id"
        with self._database.reading() as connection:
            return [Feedback(time=time, label=label, note=note) for time, label, note in connection.execute(sql, [row])]

    def correct(self, row: int, feedback: Feedback) -> None:
        """Record a correction of a row, durable when it returns; earlier ones stay, the latest counts."""
        said = [row, feedback.time, feedback.label, feedback.note]
        with self._database.writing() as connection:
            connection.execute("INSERT INTO feedback (verdict, time, label, note) VALUES (?, ?, ?, ?)", said)

    def _select(self, where: str, values: Sequence[object]) -> list[Row]:
        with self._database.reading() as connection:
            return [_row(found) for found in connection.execute(_ROWS + where, values)]


def find(connection: sqlite3.Connection, source: str) -> Entry | None:
    """Return the entry of a source."""
    found = connection.execute(f"{_ROWS} WHERE v.source = ?", [plain_text(source)]).fetchone()
    return None if found is None else _row(found).entry


def _row(found: tuple[object, ...]) -> Row:
    number, *values, said_at, said_label, note = found
    sha256, suffix = values[12:14]
    digest = sha256.hex() if isinstance(sha256, bytes) else None
    values[12:14] = digest, None if suffix is None else place(str(digest), str(suffix))
    entry = Entry(**dict(zip(FIELDS, values, strict=True)))  # type: ignore[arg-type]
    said = None if said_label is None else Feedback(time=said_at, label=said_label, note=note)  # type: ignore[arg-type]
    return Row(id=number, entry=entry, feedback=said)  # type: ignore[arg-type]
