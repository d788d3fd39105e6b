"""Kept pictures: which, where, how many bytes, and what goes first; held against the folder as it is walked."""

import hashlib
import os
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export.runtime.image import IMAGE_SUFFIXES
from export.runtime.log import database
from export.runtime.log.entry import Feedback
from export.runtime.log.log import Entry, Log
from export.runtime.log.pictures import suffix_of

MakeEntry = Callable[..., Entry]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SYNCHRONOUS", "OFF")
    monkeypatch.setattr(os, "fsync", lambda _: None)


def files(store: Path) -> list[Path]:
    return sorted(path for path in (store / "log" / "pictures").rglob("*") if path.is_file())


def kept(log: Log) -> list[str]:
    """The parts whose pictures are kept, in their order."""
    return [row.entry.part for row in log.since() if row.entry.kept]


def filled(store: Path, entry: MakeEntry, verdicts: Sequence[str], limit: int, size: int = 100) -> Log:
    """A log whose pictures, all of one size, were recorded one after the other."""
    log = Log(store, keep_passes=1.0, pictures_mb=limit / 1e6)
    for number, verdict in enumerate(verdicts):
        log.record(entry(number, verdict=verdict), b"%d" % number + b" " * (size - len(str(number))))
    return log


@pytest.mark.parametrize(
    ("verdict", "fault", "is_kept"),
    [
        ("reject", None, True),
        ("review", None, True),
        ("pass", None, False),
        ("class", None, False),
        ("reject", "cannot be read", True),
        ("class", "cannot be read", True),
    ],
)
def test_what_did_not_pass_is_always_kept_as_its_very_bytes(
    log: Log, store: Path, entry: MakeEntry, verdict: str, fault: str | None, is_kept: bool
) -> None:
    written = log.record(entry(verdict=verdict, fault=fault), b"half a picture")
    digest = hashlib.sha256(b"half a picture").hexdigest()
    assert written.kept == (f"log/pictures/{digest[:2]}/{digest}.bin" if is_kept else None)
    assert [path.read_bytes() for path in files(store)] == [b"half a picture"] * is_kept
    assert log.last(1) == [written]


def test_a_share_of_passes_is_drawn_by_the_picture_alone(tmp_path: Path, entry: MakeEntry) -> None:
    pictures = [b"%d" % number for number in range(400)]
    drawn = []
    for name, order in (("a", pictures), ("b", pictures[::-1])):
        with Log(tmp_path / name, keep_passes=0.25, pictures_mb=1) as log:
            written = [log.record(entry(i), picture) for i, picture in enumerate(order)]
        drawn.append({one.sha256 for one in written if one.kept})
    assert drawn[0] == drawn[1]
    assert 70 <= len(drawn[0]) <= 130  # 100 expected, standard deviation 8.7
    assert drawn[0] == {one for one in map(sha, pictures) if int(one, 16) / 2**256 < 0.25}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("share", "is_kept"), [(0.0, False), (1.0, True)])
def test_none_and_all_are_shares_too(store: Path, entry: MakeEntry, share: float, is_kept: bool) -> None:
    with Log(store, keep_passes=share, pictures_mb=1) as log:
        for digest in ("0" * 64, "f" * 64):
            assert (log.record(entry(0, source=digest, sha256=digest), b"x").kept is not None) == is_kept


@pytest.mark.parametrize(
    ("form", "suffix"),
    [
        ("PNG", ".png"), ("JPEG", ".jpg"), ("BMP", ".bmp"), ("TIFF", ".tif"), ("WEBP", ".webp"), ("PPM", ".pgm"),
        ("GIF", ".gif"),
    ],
)  # fmt: skip
def test_the_suffix_is_that_of_the_content(form: str, suffix: str) -> None:
    buffer = BytesIO()
    Image.new("L", (8, 8), 40).save(buffer, form)
    assert suffix_of(buffer.getvalue()) == suffix
    assert suffix in IMAGE_SUFFIXES
    assert suffix_of(b"") == suffix_of(b"hello") == ".bin"


def test_the_oldest_passes_go_first_then_the_oldest_others(store: Path, entry: MakeEntry) -> None:
    verdicts = ["reject", "pass", "review", "pass", "reject", "pass"]
    with filled(store, entry, verdicts, limit=600) as log:
        assert kept(log) == [f"part-{number}" for number in range(6)]
        gone = []
        for number in range(6, 11):
            before = set(kept(log))
            log.record(entry(number, verdict="reject"), b"%3d" % number + b" " * 97)
            gone += sorted(before - set(kept(log)))
        assert gone == ["part-1", "part-3", "part-5", "part-0", "part-2"]
        assert sum(path.stat().st_size for path in files(store)) == 600


def test_the_clock_does_not_say_what_is_old(store: Path, entry: MakeEntry) -> None:
    with Log(store, keep_passes=0, pictures_mb=200 / 1e6) as log:
        for number, year in enumerate(("2031", "2019", "1970")):
            log.record(entry(number, verdict="reject", time=f"{year}-01-01T00:00:00.000Z"), b"%d" % number * 100)
        assert kept(log) == ["part-1", "part-2"]


def test_a_pass_does_not_drive_out_a_reject(store: Path, entry: MakeEntry) -> None:
    with filled(store, entry, ["reject"] * 3, limit=300) as log:
        assert log.record(entry(9, verdict="pass"), b"9" * 50).kept is None
        assert kept(log) == ["part-0", "part-1", "part-2"]
    assert len(files(store)) == 3


def test_a_picture_larger_than_all_room_is_not_kept(store: Path, entry: MakeEntry) -> None:
    with filled(store, entry, ["reject"] * 3, limit=300) as log:
        assert log.record(entry(9, verdict="reject"), b"9" * 301).kept is None
        assert kept(log) == ["part-0", "part-1", "part-2"]


def test_corrected_pictures_go_last(store: Path, entry: MakeEntry) -> None:
    with filled(store, entry, ["pass", "reject", "reject"], limit=300) as log:
        first = next(log.since())
        log.correct(first.id, Feedback(time="t", label="scratch", note=None))
        for number in range(3, 6):
            log.record(entry(number, verdict="reject"), b"%d" % number * 100)
        assert kept(log) == ["part-0", "part-4", "part-5"]


def test_parts_share_a_picture_and_its_best_reason_to_stay(store: Path, entry: MakeEntry) -> None:
    with Log(store, keep_passes=1, pictures_mb=200 / 1e6) as log:
        log.record(entry(0, verdict="reject"), b"a" * 100)
        log.record(entry(1, verdict="pass"), b"a" * 100)
        assert len(files(store)) == 1
        assert kept(log) == ["part-0", "part-1"]
        log.record(entry(2, verdict="pass"), b"b" * 100)
        log.record(entry(3, verdict="reject"), b"c" * 100)
        assert kept(log) == ["part-0", "part-1", "part-3"]


def test_a_smaller_limit_makes_room_at_the_next_part(store: Path, entry: MakeEntry) -> None:
    filled(store, entry, ["reject"] * 5, limit=500).close()
    with Log(store, keep_passes=0, pictures_mb=200 / 1e6) as log:
        log.record(entry(9, verdict="reject"), b"9" * 100)
        assert kept(log) == ["part-4", "part-9"]
    assert len(files(store)) == 2


def test_a_picture_that_somebody_took_away_is_written_again_or_makes_room_all_the_same(
    store: Path, entry: MakeEntry
) -> None:
    with filled(store, entry, ["reject"] * 3, limit=300) as log:
        for path in files(store):
            path.unlink()
        log.record(entry(7, verdict="reject"), b"0" + b" " * 99)
        assert [path.read_bytes()[:1] for path in files(store)] == [b"0"]
        for number in range(8, 12):
            log.record(entry(number, verdict="reject"), b"%3d" % number + b"-" * 97)
        assert kept(log) == ["part-9", "part-10", "part-11"]
        assert len(files(store)) == 3


def test_where_no_picture_can_be_written_the_verdict_is(log: Log, store: Path, entry: MakeEntry) -> None:
    (store / "log" / "pictures").write_text("a file where a folder is meant")
    written = log.record(entry(verdict="reject"), b"picture")
    assert (written.kept, log.last(1)) == (None, [written])
    (store / "log" / "pictures").unlink()
    assert log.record(entry(1, verdict="reject"), b"picture").kept is not None
    assert log.last(2)[1].kept is not None  # the same picture: it is there now for both


@pytest.mark.parametrize("seed", range(3))
def test_the_books_agree_with_the_folder_after_anything(
    tmp_path: Path, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng, store = np.random.default_rng(seed), tmp_path / "store"
    unlink: Any = Path.unlink
    with Log(store, keep_passes=0.5, pictures_mb=2000 / 1e6) as log:
        for number in range(150):
            if number == 70:  # for a while nothing can be deleted
                monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
            if number == 100:
                monkeypatch.setattr(Path, "unlink", unlink)
            verdict = str(rng.choice(["pass", "reject", "review"]))
            log.record(entry(number, verdict=verdict), bytes([int(rng.integers(60))]) * int(rng.integers(50, 400)))
            if number % 7 == 0:
                log.correct(log.latest(1)[0].id, Feedback(time="t", label="x", note=None))
        told = {row.entry.kept for row in log.since()} - {None}
        with log._database.reading() as connection:
            (total,) = connection.execute("SELECT bytes FROM kept").fetchone()
    assert told == {path.relative_to(store).as_posix() for path in files(store)}
    assert total == sum(path.stat().st_size for path in files(store)) <= 2000
    assert len(told) > 3
    assert all(path.stem == sha(path.read_bytes()) for path in files(store))
