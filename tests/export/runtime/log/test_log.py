"""The log: what was reported is there, once, as it was, in its order, whoever writes and whenever it is stopped."""

import hashlib
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from export.runtime.errors import UsageError
from export.runtime.log import database, history
from export.runtime.log.entry import Feedback
from export.runtime.log.history import History, log_file
from export.runtime.log.log import Entry, Log

MakeEntry = Callable[..., Entry]
PROJECT = Path(__file__).parents[4]

WRITER = """
import sys
from pathlib import Path
from export.runtime.log.log import Entry, Log
name, count = sys.argv[2], int(sys.argv[3])
with Log(Path(sys.argv[1]), keep_passes=1.0, pictures_mb=1.0) as log:
    for i in range(count):
        entry = Entry(part=name, source=f"{name}:{i}", time="2026-01-31T12:00:00.000Z", bundle="b", verdict="reject",
                      label=None, score=None, threshold=None, novelty=None, brightness=None, sharpness=None, ms=None,
                      sha256=None, kept=None, reason=None, fault=None)
        written = log.record(entry, f"{name} {i}".encode())
        print(i, written.kept, flush=True)
"""


def writer(store: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(store), name, str(count)]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)


def rows(store: Path) -> sqlite3.Connection:
    return sqlite3.connect(log_file(store))


def test_what_was_recorded_comes_back_whole(log: Log, entry: MakeEntry) -> None:
    full = entry(1, verdict="review", reason="novel", fault=None, sha256="ab" * 32)
    empty = entry(
        2, verdict="reject", label=None, score=None, threshold=None, novelty=None, brightness=None, sharpness=None,
        ms=None, fault="cannot be read",
    )  # fmt: skip
    assert log.record(full, None) == full
    assert log.record(empty, None) == empty
    assert log.entry_of(full.source) == full
    assert log.entry_of(empty.source) == empty
    assert log.entry_of("another") is None


def test_the_picture_is_hashed_where_nobody_did(log: Log, entry: MakeEntry) -> None:
    assert log.record(entry(), b"picture").sha256 == hashlib.sha256(b"picture").hexdigest()


def test_no_picture_gets_two_verdicts(log: Log, entry: MakeEntry) -> None:
    first = log.record(entry(verdict="reject", label="scratch"), b"picture")
    again = log.record(entry(verdict="pass", time="2030-01-01T00:00:00.000Z"), b"picture")
    assert again == first
    assert log.counts() == {"reject": 1}


def test_what_no_file_takes_is_written_so_that_it_does(log: Log, entry: MakeEntry) -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    written = log.record(entry(part=name, source=name, score=float("nan"), novelty=float("inf")), None)
    assert (written.part, written.score, written.novelty) == ("caf\\xe9.png", None, None)
    assert log.entry_of(name) == written
    assert [row.entry for row in log.of_part(name)] == [written]


def test_the_order_is_that_of_recording_whatever_the_clock_says(log: Log, entry: MakeEntry) -> None:
    years = ("2026", "2019", "2031", "2026")
    for number, year in enumerate(years):
        log.record(entry(number, time=f"{year}-01-01T00:00:00.000Z"), None)
    assert [one.part for one in log.last(3)] == ["part-3", "part-2", "part-1"]
    assert [row.entry.time[:4] for row in log.since()] == list(years)


def test_rows_are_read_in_batches_from_any_place_and_time(
    log: Log, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "BATCH", 3)
    recorded = [log.record(entry(number), None) for number in range(10)]
    every = list(log.since())
    assert [row.entry for row in every] == recorded
    assert [row.entry for row in log.since(every[6].id)] == recorded[7:]
    between = log.since(start=recorded[2].time, end=recorded[8].time)
    assert [row.entry for row in between] == recorded[2:8]
    reading = log.since()
    first = next(reading)
    late = log.record(entry(10), None)
    assert [row.entry for row in (first, *reading)] == [*recorded, late]


def test_verdicts_are_counted_by_bundle(log: Log, entry: MakeEntry) -> None:
    for number, (verdict, bundle) in enumerate([("pass", "a"), ("pass", "a"), ("reject", "a"), ("pass", "b")]):
        log.record(entry(number, verdict=verdict, bundle=bundle), None)
    assert log.counts() == {"pass": 3, "reject": 1}
    assert log.counts("a") == {"pass": 2, "reject": 1}
    assert log.counts("b") == {"pass": 1}
    assert log.counts("c") == {}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE verdicts SET verdict = 'pass'",
        "UPDATE feedback SET label = 'good'",
        "DELETE FROM verdicts",
        "DELETE FROM feedback",
        "REPLACE INTO verdicts SELECT id, part, source, time, bundle, 'pass', label, score, threshold, novelty, "
        "brightness, sharpness, ms, sha256, reason, fault FROM verdicts",
        "REPLACE INTO feedback SELECT id, verdict, time, 'good', note FROM feedback",
    ],
)
def test_nothing_on_record_is_changed_or_deleted(log: Log, store: Path, entry: MakeEntry, statement: str) -> None:
    log.record(entry(verdict="reject"), None)
    (row,) = log.latest(1)
    log.correct(row.id, Feedback(time="t", label="scratch", note=None))
    before = log.latest(1), log.feedback_of(row.id)
    with closing(rows(store)) as other, pytest.raises(sqlite3.IntegrityError, match="the log is append-only"):
        other.execute(statement)
    assert (log.latest(1), log.feedback_of(row.id)) == before


def test_several_corrections_stay_and_the_latest_counts(
    log: Log, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "BATCH", 2)
    for number in range(7):
        log.record(entry(number), None)
    ids = [row.id for row in log.since()]
    for row in (ids[4], ids[0], ids[5], ids[6]):
        log.correct(row, Feedback(time="2026", label="dent", note=None))
    final = Feedback(time="2027", label="scratch", note="after a look")
    log.correct(ids[4], final)
    assert log.feedback_of(ids[4]) == [Feedback(time="2026", label="dent", note=None), final]
    told = {row.id: row.feedback.label for row in log.corrected() if row.feedback}
    assert told == {ids[0]: "dent", ids[4]: "scratch", ids[5]: "dent", ids[6]: "dent"}
    assert [row.feedback is None for row in log.since()] == [False, True, True, True, False, False, False]


def test_the_log_is_read_by_others_and_opened_again(log: Log, store: Path, entry: MakeEntry) -> None:
    written = log.record(entry(), None)
    with History(store) as other:
        assert other.last(5) == [written]
    log.close()
    assert log.last(5) == [written]
    with Log(store, keep_passes=0, pictures_mb=0) as again:
        assert again.record(replace(written, source="other"), None).source == "other"


def test_to_read_a_log_makes_none(store: Path) -> None:
    with pytest.raises(UsageError, match="logged nothing yet"):
        History(store)
    assert not store.exists()


def test_threads_share_a_log(log: Log, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SYNCHRONOUS", "OFF")
    log.close()

    def work(start: int) -> None:
        for number in range(start, start + 50):
            assert log.record(entry(number), b"%d" % number).part == f"part-{number}"
            assert len(log.last(1)) == 1

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 25, 75, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(row.entry.part[5:]) for row in log.since()) == list(range(150))


def test_two_processes_begin_and_write_one_log(store: Path) -> None:
    writers = [writer(store, name, 60) for name in "ab"]
    for process in writers:
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out.count("\n")) == (0, 60)
    with History(store) as found:
        parts = [row.entry.source for row in found.since()]
    assert sorted(parts) == sorted(f"{name}:{i}" for name in "ab" for i in range(60))


@pytest.mark.parametrize("lines", [1, 2, 5, 11, 17])
def test_what_was_reported_before_a_kill_is_there_once(store: Path, lines: int) -> None:
    with writer(store, "a", 100_000) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.readlines()
    told = [line for line in told if line.endswith("\n")]
    assert process.returncode == -signal.SIGKILL
    with Log(store, keep_passes=0, pictures_mb=1) as log:
        sources = [row.entry.source for row in log.since()]
        assert len(told) <= len(sources) <= len(told) + 1
        assert sources == [f"a:{i}" for i in range(len(sources))]
        for line in told:
            number, kept = line.split()
            assert (store / kept).read_bytes() == f"a {number}".encode()
    with closing(rows(store)) as found:
        assert found.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
