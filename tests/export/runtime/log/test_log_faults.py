"""What befalls a log: each fault is one clear error, and once it is over the same object works again."""

import resource
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from export.runtime.errors import EnvironmentLacks
from export.runtime.log import database, schema
from export.runtime.log.history import History, log_file
from export.runtime.log.log import Entry, Log

MakeEntry = Callable[..., Entry]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)


@pytest.fixture
def other(store: Path, log: Log) -> Iterator[sqlite3.Connection]:
    """Another program that has the log open."""
    connection = sqlite3.connect(log_file(store), isolation_level=None)
    yield connection
    connection.close()


def test_a_locked_log_is_told_and_taken_again(log: Log, other: sqlite3.Connection, entry: MakeEntry) -> None:
    log.record(entry(0), None)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        with pytest.raises(EnvironmentLacks, match=r"is locked: expected the log free within 0\.05 s"):
            log.record(entry(1), None)
    assert log.entry_of(entry(0).source) is not None  # reading goes on
    other.execute("ROLLBACK")
    assert log.record(entry(1), None).part == "part-1"
    assert len(log.last(9)) == 2


def test_a_log_that_waits_its_turn_is_no_fault(
    log: Log, store: Path, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 30.0)
    log.close()  # opened anew with that patience
    held = sqlite3.connect(log_file(store), isolation_level=None, check_same_thread=False)
    held.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.1, held.execute, ["ROLLBACK"])
    timer.start()
    assert log.record(entry(), None).part == "part-0"
    timer.join()
    held.close()


def test_a_full_disk_loses_no_row_that_was_reported(log: Log, entry: MakeEntry) -> None:
    written = [log.record(entry(0), None)]
    with log._database.reading() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    def fill() -> None:
        for number in range(1, 1000):
            written.append(log.record(entry(number, reason="x" * 500), None))

    with pytest.raises(EnvironmentLacks, match=r"cannot grow: expected space for more rows, found .*full"):
        fill()
    assert 1 < len(written) < 1000
    assert log.last(2000) == written[::-1]
    late = log.record(entry(len(written)), None)
    assert log.last(1) == [late]


def test_a_log_that_cannot_be_written_for_a_while_is_told(log: Log, entry: MakeEntry) -> None:
    before = log.record(entry(0), None)
    with log._database.reading() as connection:
        connection.execute("PRAGMA query_only = ON")  # as on a disk mounted read-only: permissions do not stop root
    with pytest.raises(EnvironmentLacks, match=r"cannot be used: .*found attempt to write a readonly database"):
        log.record(entry(1), None)
    assert log.last(9) == [before]
    assert log.record(entry(1), None).part == "part-1"


FULL = """
import resource, signal, sys
from pathlib import Path
from export.runtime.errors import EnvironmentLacks
from export.runtime.log.log import Entry, Log
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def entry(i):
    return Entry(part="p", source=str(i), time="t", bundle="b", verdict="reject", label=None, score=None,
                 threshold=None, novelty=None, brightness=None, sharpness=None, ms=None, sha256=None, kept=None,
                 reason=None, fault=None)

store = Path(sys.argv[1])
with Log(store, keep_passes=0.0, pictures_mb=100.0) as log:
    log.record(entry(0), None)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    assert log.record(entry(1), b"a" * 400_000).kept is None  # no room for the picture: the verdict is written
    assert log.record(entry(2), b"b" * 200_000).kept is not None
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    refused = 0
    for _ in range(3):
        try:
            log.record(entry(3), None)
        except EnvironmentLacks as error:
            refused += "cannot be used" in str(error) or "cannot grow" in str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    log.record(entry(3), None)
    print(refused, [one.source for one in log.last(9)], sorted(p.stat().st_size for p in store.rglob("*.bin")))
    print(list(store.rglob("*.partial")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="file sizes are limited as on Linux")
def test_a_disk_that_takes_no_picture_takes_the_verdict_and_one_that_takes_nothing_is_told(
    store: Path, python: Any
) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = python(FULL, store)
    assert done.stdout.splitlines() == ["3 ['3', '2', '1', '0'] [200000]", "[]"], done


def test_a_log_that_is_gone_is_not_begun_anew_and_is_used_when_it_is_back(
    log: Log, store: Path, entry: MakeEntry
) -> None:
    before = log.record(entry(0), None)
    away = store.with_name("away")
    shutil.move(store, away)
    for _ in range(2):
        with pytest.raises(EnvironmentLacks, match=r"is gone: .*found nothing\. Put it back"):
            log.record(entry(1), None)
    assert not store.exists()
    shutil.move(away, store)
    after = log.record(entry(1), None)
    assert log.last(9) == [after, before]


def test_a_log_put_in_the_place_of_another_is_the_log(log: Log, store: Path, tmp_path: Path, entry: MakeEntry) -> None:
    log.record(entry(0), None)
    with Log(tmp_path / "other", keep_passes=0, pictures_mb=0) as second:
        kept = second.record(entry(7), None)
    for file in log_file(store).parent.glob("*.sqlite*"):
        file.unlink()
    shutil.copy(log_file(tmp_path / "other"), log_file(store))
    assert log.last(9) == [kept]
    assert log.record(entry(8), None).part == "part-8"


def damaged(store: Path) -> bytes:
    """Damage the pages behind the header, and return the file as it was."""
    path = log_file(store)
    data = path.read_bytes()
    path.write_bytes(data[:100] + b"\x5a" * (len(data) - 100))
    return data


def test_a_damaged_log_is_told_and_mended(log: Log, store: Path, entry: MakeEntry) -> None:
    before = log.record(entry(0), None)
    log.close()
    sound = damaged(store)
    for _ in range(2):
        with pytest.raises(EnvironmentLacks, match=r"is damaged: expected a sound SQLite file"):
            log.record(entry(1), None)
    log_file(store).write_bytes(sound)
    assert log.record(entry(1), None) == log.last(1)[0]
    assert log.last(9)[1] == before


def test_a_folder_in_its_place_is_told(log: Log, store: Path, entry: MakeEntry) -> None:
    log.close()
    for file in log_file(store).parent.glob("*.sqlite*"):
        file.unlink()
    log_file(store).mkdir()
    with pytest.raises(EnvironmentLacks, match="cannot be used: expected a file that can be read and written"):
        log.record(entry(), None)


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\x11" * 5000])
def test_a_file_that_is_no_database_is_refused_and_left_alone(store: Path, content: bytes) -> None:
    log_file(store).parent.mkdir(parents=True)
    log_file(store).write_bytes(content)
    for kind in (lambda: Log(store, keep_passes=0, pictures_mb=0), lambda: History(store)):
        with pytest.raises(EnvironmentLacks, match=r"is damaged: .*Stop the station and move the file away"):
            kind()
    assert log_file(store).read_bytes() == content


def made(store: Path, *statements: str) -> None:
    with closing(sqlite3.connect(log_file(store), isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def tables(store: Path) -> list[tuple[str]]:
    with closing(sqlite3.connect(log_file(store))) as connection:
        return connection.execute("SELECT name FROM sqlite_master").fetchall()


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE songs (name TEXT)",),
        ("CREATE TABLE songs (name TEXT)", "PRAGMA user_version = 1"),
        ("PRAGMA user_version = 7",),
    ],
)
def test_another_programs_database_is_refused(store: Path, statements: tuple[str, ...]) -> None:
    log_file(store).parent.mkdir(parents=True)
    made(store, *statements)
    before = tables(store)
    with pytest.raises(EnvironmentLacks, match="is not a log that can be written"):
        Log(store, keep_passes=0, pictures_mb=0)
    assert tables(store) == before


@pytest.mark.parametrize("change", ["DROP TRIGGER verdicts_no_update", "ALTER TABLE feedback ADD COLUMN who TEXT"])
def test_a_log_whose_rules_were_changed_is_refused(log: Log, store: Path, change: str) -> None:
    log.close()
    made(store, change)
    with pytest.raises(EnvironmentLacks, match="was changed"):
        log.last(1)


def test_a_newer_log_is_refused_and_an_older_one_is_brought_up(
    log: Log, store: Path, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE shifts (name TEXT)")

    before = log.record(entry(), None)
    log.close()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, second))
        assert log.last(1) == [before]
        log.close()
    with pytest.raises(EnvironmentLacks, match="of a newer version: expected version 1 at most, found version 2"):
        log.last(1)


def test_a_migration_that_fails_leaves_the_log_as_it_was(
    log: Log, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE shifts (name TEXT)")
        connection.execute("CREATE TABLE verdicts (name TEXT)")

    before = log.record(entry(), None)
    log.close()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (schema.MIGRATIONS[0], broken))
        with pytest.raises(EnvironmentLacks):
            log.last(1)
    assert log.last(1) == [before]
