"""The tables of the log, how a file of an older version becomes one of this, and what is refused."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from export.runtime.errors import EnvironmentLacks

APPLICATION_ID: Final = 0x454D464C  # "EMFL" in the file's header: no other program's database is taken for a log

_FIRST: Final = (
    """CREATE TABLE verdicts (
    id INTEGER PRIMARY KEY, part TEXT NOT NULL, source TEXT NOT NULL UNIQUE, time TEXT NOT NULL, bundle TEXT NOT NULL,
    verdict TEXT NOT NULL, label TEXT, score REAL, threshold REAL, novelty REAL, brightness REAL, sharpness REAL,
    ms REAL, sha256 BLOB, reason TEXT, fault TEXT)""",
    "CREATE INDEX verdicts_of_part ON verdicts (part)",
    """CREATE TABLE feedback (
    id INTEGER PRIMARY KEY, verdict INTEGER NOT NULL REFERENCES verdicts (id), time TEXT NOT NULL,
    label TEXT NOT NULL, note TEXT)""",
    "CREATE INDEX feedback_of_verdict ON feedback (verdict)",
    # REPLACE deletes without asking the triggers of DELETE, so a row that is there is refused before it.
    """CREATE TRIGGER verdicts_once BEFORE INSERT ON verdicts
    WHEN EXISTS (SELECT 1 FROM verdicts WHERE id = NEW.id OR source = NEW.source)
    BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END""",
    """CREATE TRIGGER feedback_once BEFORE INSERT ON feedback
    WHEN EXISTS (SELECT 1 FROM feedback WHERE id = NEW.id)
    BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END""",
    *(
        f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
        "BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"
        for table in ("verdicts", "feedback")
        for action in ("UPDATE", "DELETE")
    ),
    # Counted as they come: to count millions of rows takes seconds, and a status is asked for often.
    "CREATE TABLE counts (bundle TEXT, verdict TEXT, number INTEGER NOT NULL, PRIMARY KEY (bundle, verdict)) "
    "WITHOUT ROWID",
    """CREATE TRIGGER counted AFTER INSERT ON verdicts BEGIN
    INSERT INTO counts VALUES (NEW.bundle, NEW.verdict, 1)
    ON CONFLICT DO UPDATE SET number = number + 1; END""",
    # What is kept now: rows come and go. worth: 0 a pass, 1 any other verdict, 2 corrected by an operator.
    """CREATE TABLE pictures (
    sha256 BLOB PRIMARY KEY, suffix TEXT NOT NULL, bytes INTEGER NOT NULL, worth INTEGER NOT NULL,
    verdict INTEGER NOT NULL REFERENCES verdicts (id)) WITHOUT ROWID""",
    "CREATE INDEX pictures_to_go ON pictures (worth, verdict)",
    "CREATE TABLE kept (bytes INTEGER NOT NULL)",
    "INSERT INTO kept VALUES (0)",
    "CREATE TRIGGER picture_came AFTER INSERT ON pictures BEGIN UPDATE kept SET bytes = bytes + NEW.bytes; END",
    "CREATE TRIGGER picture_went AFTER DELETE ON pictures BEGIN UPDATE kept SET bytes = bytes - OLD.bytes; END",
    """CREATE TRIGGER picture_corrected AFTER INSERT ON feedback BEGIN
    UPDATE pictures SET worth = 2 WHERE sha256 = (SELECT sha256 FROM verdicts WHERE id = NEW.verdict); END""",
)


def _first(connection: sqlite3.Connection) -> None:
    for statement in _FIRST:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


MIGRATIONS: Final[tuple[Callable[[sqlite3.Connection], None], ...]] = (_first,)


def settle(connection: sqlite3.Connection, path: Path) -> None:
    """Bring an empty file or a log of an older version to this one, in one transaction.

    Raises EnvironmentLacks for a newer log, a file that is no log, and one whose tables or triggers were changed.
    """
    if _number(connection, "user_version") != len(MIGRATIONS):
        connection.execute("BEGIN IMMEDIATE")  # of several processes the first migrates, the others find it done
        try:
            _migrate(connection, path)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    if _number(connection, "application_id") != APPLICATION_ID or _shape(connection) != _intended():
        raise _refused(path, "tables as this software made them", "others: it is another program's, or was changed")


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = _number(connection, "user_version")
    own = _number(connection, "application_id") == APPLICATION_ID if version else not _shape(connection)
    if not own:
        raise _refused(path, "an inspection log, or an empty file", "another program's database")
    if version > len(MIGRATIONS):
        raise EnvironmentLacks(
            f"the log {path} is of a newer version",
            expected=f"version {len(MIGRATIONS)} at most",
            found=f"version {version}",
            fix="Update the station's software; the log was left as it is",
        )
    for step in MIGRATIONS[version:]:
        step(connection)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _shape(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'")
    return set(rows)


def _intended() -> set[tuple[str, str, str]]:
    connection = sqlite3.connect(":memory:")
    try:
        for step in MIGRATIONS:
            step(connection)
        return _shape(connection)
    finally:
        connection.close()


def _refused(path: Path, expected: str, found: str) -> EnvironmentLacks:
    fix = "Move that file away and start again: the station then begins a new log"
    return EnvironmentLacks(f"{path} is not a log that can be written", expected=expected, found=found, fix=fix)
