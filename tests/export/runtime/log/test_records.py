"""The commands log, export-log and feedback, as an operator and an auditor use them."""

import argparse
import csv
import hashlib
import json
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from export.runtime.cli import main
from export.runtime.commands.records import _moment
from export.runtime.errors import UsageError
from export.runtime.log.entry import FIELDS, Row
from export.runtime.log.history import History
from export.runtime.log.log import Entry, Log
from export.runtime.log.table import COLUMNS, format_of, write_table
from export.runtime.manifest import bundle_id

MakeEntry = Callable[..., Entry]
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def station(capsys: pytest.CaptureFixture[str], store: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    monkeypatch.setenv("STATION_STORE", str(store))

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def recorded(log: Log, entry: MakeEntry) -> list[Entry]:
    """A pass, a reject, a review for its novelty, and a picture that could not be read."""
    return [
        log.record(entry(0), b"passing"),
        log.record(entry(1, verdict="reject", label="scratch", score=0.875), b"scratched"),
        log.record(entry(2, verdict="review", reason="novel"), b"odd"),
        log.record(entry(3, verdict="reject", label=None, score=None, fault="half a picture"), b"hal"),
    ]


def columns(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# log


def test_the_last_parts_stand_in_a_table(station: Said, recorded: list[Entry]) -> None:
    code, out, err = station("log", "--last", 3)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split()[:4] == ["time", "part", "verdict", "label"]
    assert [line.split()[1] for line in lines[1:]] == ["part-3", "part-2", "part-1"]
    assert lines[1].split()[2:4] == ["reject", "(fault)"]
    assert "0.875" in lines[3]
    assert err.splitlines() == ["4 on record: 1 pass, 2 reject, 1 review", "next: station log part-3"]


def test_everything_about_one_part_is_told(station: Said, recorded: list[Entry], store: Path) -> None:
    station("feedback", "part-1", "--label", "dent", "--note", "looked at it")
    code, out, err = station("log", "part-1")
    told = dict(line.split(None, 1) for line in out.splitlines())
    assert code == 0
    assert (told["verdict"], told["label"], told["score"], told["threshold"]) == ("reject", "scratch", "0.875", "0.4")
    assert (told["bundle"], told["novelty"], told["time"]) == ("0123456789abcdef", "1.5", recorded[1].time)
    assert told["sha256"] == hashlib.sha256(b"scratched").hexdigest()
    assert Path(told["picture"]).read_bytes() == b"scratched"
    assert told["feedback"].endswith("Z: dent (looked at it)")
    assert err == "next: station feedback part-1 --label LABEL\n"
    assert "picture    not kept" in station("log", "part-0")[1]
    (store / str(recorded[2].kept)).unlink()
    assert ", which is gone" in station("log", "part-2")[1]
    assert "half a picture" in station("log", "part-3")[1]


def test_the_log_is_one_json_document(station: Said, recorded: list[Entry]) -> None:
    station("feedback", "part-1", "--label", "dent")
    station("feedback", "part-1", "--label", "good", "--note", "dust")
    document = json.loads(station("log", "--json")[1])
    assert document["counts"] == {"pass": 1, "reject": 2, "review": 1}
    assert [{name: part[name] for name in FIELDS} for part in document["parts"]] == [
        {name: getattr(one, name) for name in FIELDS} for one in reversed(recorded)
    ]
    assert [(said["label"], said["note"]) for said in document["parts"][2]["feedback"]] == [
        ("dent", None),
        ("good", "dust"),
    ]
    (alone,) = json.loads(station("log", "part-2", "--json")[1])["parts"]
    assert alone == document["parts"][1]


def test_a_part_inspected_twice_has_two_rows_and_each_its_source(station: Said, log: Log, entry: MakeEntry) -> None:
    first, second = (log.record(entry(n, part="same", verdict="reject"), b"%d" % n) for n in (1, 2))
    parts = json.loads(station("log", "same", "--json")[1])["parts"]
    assert [part["source"] for part in parts] == [second.source, first.source]
    _, out, err = station("feedback", "same", "--label", "good")
    assert out.startswith(f"part same of {second.time} was called reject (good) and is good")
    assert "2 pictures of that name: the correction is of the latest" in err
    assert station("feedback", first.source, "--label", "dent")[0] == 0
    parts = json.loads(station("log", "same", "--json")[1])["parts"]
    assert [part["feedback"][0]["label"] for part in parts] == ["good", "dent"]


def test_no_name_moves_the_cursor(station: Said, log: Log, entry: MakeEntry) -> None:
    name = "\x1b[2J\nevil"
    log.record(entry(part=name, fault="\x1b]0;title\x07"), None)
    for arguments in ((), (name,)):
        out = station("log", *arguments)[1]
        assert "\x1b" not in out and r"\x1b[2J\nevil" in out


def test_what_is_not_there_is_told(station: Said, store: Path, request: pytest.FixtureRequest) -> None:
    assert station("log")[0] == 2
    assert not store.exists()
    request.getfixturevalue("recorded")
    code, out, err = station("log", "part-77")
    assert (code, out) == (2, "")
    assert err.startswith("error: no part 'part-77' on record")


# export-log


def test_every_row_is_exported_with_its_correction(station: Said, recorded: list[Entry], tmp_path: Path) -> None:
    station("feedback", "part-1", "--label", "dent", "--note", "=1+1")
    code, out, err = station("export-log", "--out", tmp_path / "log.csv")
    rows = columns(tmp_path / "log.csv")
    assert (code, out) == (0, f"4 rows written to {tmp_path / 'log.csv'}\n")
    assert "next: " in err
    assert list(rows[0]) == list(COLUMNS)
    for number, (row, one) in enumerate(zip(rows, recorded, strict=True), 1):
        known = {name: getattr(one, name) for name in FIELDS}
        assert row["row"] == str(number)
        assert {name: row[name] for name in FIELDS} == {n: "" if v is None else str(v) for n, v in known.items()}
    assert [(row["corrected"], row["note"]) for row in rows[:2]] == [("", ""), ("dent", "'=1+1")]


@pytest.mark.parametrize("start", "=+-@\t\r")
def test_no_text_begins_a_formula_and_numbers_stay(
    station: Said, log: Log, entry: MakeEntry, tmp_path: Path, start: str
) -> None:
    log.record(entry(part=f"{start}cmd|' /C calc'!A0", source="s", score=-0.5), None)
    station("export-log", "--out", tmp_path / "log.csv")
    (row,) = columns(tmp_path / "log.csv")
    assert row["part"] == f"'{start}cmd|' /C calc'!A0"
    assert row["score"] == "-0.5"


def test_a_span_of_time_is_exported(station: Said, log: Log, entry: MakeEntry, tmp_path: Path) -> None:
    times = [
        "2026-01-30T23:59:59.999Z",
        "2026-01-31T00:00:00.000Z",
        "2026-01-31T05:59:59.999Z",
        "2026-02-01T00:00:00.000Z",
    ]
    for number, time in enumerate(times):
        log.record(entry(number, time=time), None)

    def exported(*arguments: str) -> list[str]:
        assert station("export-log", "--out", tmp_path / "log.csv", *arguments)[0] == 0
        return [row["time"] for row in columns(tmp_path / "log.csv")]

    assert exported("--since", "2026-01-31") == times[1:]
    assert exported("--until", "2026-01-31") == times[:1]
    assert exported("--since", "2026-01-31", "--until", "2026-02-01") == times[1:3]
    assert exported("--since", "2026-01-31T08:00+02:00") == times[3:]
    assert exported("--since", "2027-01-01") == []


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "12:00", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a time"):
        _moment(text)


def test_parquet_has_the_same_rows_with_their_types(
    station: Said, recorded: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("export.runtime.log.parquet.GROUP", 3)
    assert station("export-log", "--out", tmp_path / "log.parquet")[0] == 0
    table = parquet.read_table(tmp_path / "log.parquet")
    assert [(name, str(table.schema.field(name).type)) for name in ("row", "score", "part")] == [
        ("row", "int64"), ("score", "double"), ("part", "string"),
    ]  # fmt: skip
    rows = table.to_pylist()
    assert [{name: row[name] for name in FIELDS} for row in rows] == [
        {name: getattr(one, name) for name in FIELDS} for one in recorded
    ]
    assert parquet.ParquetFile(tmp_path / "log.parquet").metadata.num_row_groups == 2
    assert list(rows[0]) == list(COLUMNS)


def test_without_pyarrow_it_says_what_to_install(
    station: Said, recorded: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    code, out, err = station("export-log", "--out", tmp_path / "log.bin", "--format", "parquet")
    assert (code, out) == (3, "")
    assert "pip install 'edge-model-factory[parquet]'" in err
    assert not any(path.is_file() for path in tmp_path.iterdir())


def test_the_format_is_said_by_suffix_or_by_name() -> None:
    assert format_of(Path("a.CSV"), None) == "csv"
    assert format_of(Path("a.parquet"), None) == "parquet"
    assert format_of(Path("a.csv"), "parquet") == "parquet"
    with pytest.raises(UsageError, match=r"ends in \.csv or \.parquet"):
        format_of(Path("a.xlsx"), None)


def test_an_export_that_fails_leaves_what_was_there(recorded: list[Entry], store: Path, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("yesterday's")

    def broken(rows: Any) -> Any:
        yield next(rows)
        raise OSError(28, "No space left on device")

    with History(store) as history, pytest.raises(OSError, match="No space"):
        write_table(path, "csv", broken(history.since()))
    assert path.read_text() == "yesterday's"
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["log.csv"]


def test_memory_does_not_grow_with_the_log(log: Log, entry: MakeEntry, tmp_path: Path) -> None:
    log.record(entry(), None)
    (row,) = log.latest(1)

    def peak(number: int) -> int:
        rows = (Row(id=i, entry=row.entry, feedback=None) for i in range(number))
        tracemalloc.start()
        assert write_table(tmp_path / "log.csv", "csv", rows) == number
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)
    assert peak(5000) < peak(500) + 50_000


# feedback


@pytest.fixture
def judged(store: Path, bundle: Path, log: Log, entry: MakeEntry) -> Entry:
    """A reject by an installed bundle, whose labels are good, scratch and dent."""
    name = bundle_id((bundle / "manifest.json").read_bytes())
    shutil.copytree(bundle, store / "bundles" / name)
    return log.record(entry(verdict="reject", label="scratch", bundle=name), b"picture")


def test_a_label_is_one_of_the_bundle_that_judged(station: Said, judged: Entry, log: Log) -> None:
    code, out, err = station("feedback", "part-0", "--label", "Dent")
    assert (code, out) == (2, "")
    assert "expected one of good, scratch, dent, found Dent" in err
    code, out, err = station("feedback", "part-0", "--label", "dent", "--note", "Ölfleck, unten")
    assert (code, out) == (0, f"part part-0 of {judged.time} was called reject (scratch) and is dent\n")
    assert err.startswith("next: station feedback --out DIR")
    (row,) = log.latest(1)
    assert row.feedback is not None
    assert (row.feedback.label, row.feedback.note) == ("dent", "Ölfleck, unten")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--label", "a\nb"), ("--label", " "), ("--label", "x" * 201), ("--label", "=1"),
        ("--label", "a", "--note", "\x1b"),
    ],
)  # fmt: skip
def test_without_the_bundle_any_printable_label_will_do(
    station: Said, recorded: list[Entry], log: Log, arguments: tuple[str, ...]
) -> None:
    assert station("feedback", "part-1", *arguments)[0] == 2
    assert next(log.corrected(), None) is None
    assert station("feedback", "part-1", "--label", "tiefer Kratzer")[0] == 0


@pytest.mark.parametrize(
    "arguments", [(), ("part-1",), ("--label", "good"), ("--out", "x", "part-1"), ("--out", "x", "--note", "n")]
)
def test_feedback_is_either_given_or_collected(
    station: Said, recorded: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = station("feedback", *arguments)
    assert code == 2
    assert "station feedback PART --label LABEL, or station feedback --out DIR" in err
    assert not Path("x").exists()


def test_corrected_pictures_are_written_with_their_list(
    station: Said, recorded: list[Entry], store: Path, tmp_path: Path
) -> None:
    for part, *said in (
        ("part-0", "scratch"), ("part-1", "dent"), ("part-1", "good", "--note", "=dust"), ("part-2", "good"),
        ("part-3", "good"),
    ):  # fmt: skip
        assert station("feedback", part, "--label", *said)[0] == 0
    (store / str(recorded[2].kept)).write_bytes(b"other bytes")
    (store / str(recorded[3].kept)).unlink()
    code, out, err = station("feedback", "--out", tmp_path / "out")
    assert (code, out) == (0, f"1 corrected pictures written to {tmp_path / 'out'}\n")
    assert [line.partition(" of ")[0] for line in err.splitlines()[:3]] == ["part-0", "part-2", "part-3"]
    assert err.splitlines()[-1].endswith("factory add-feedback LINE out")
    (row,) = columns(tmp_path / "out" / "labels.csv")
    name = hashlib.sha256(b"scratched").hexdigest() + ".bin"
    assert row == {
        "path": name, "label": "good", "part": "part-1", "verdict": "reject", "bundle": "0123456789abcdef",
        "note": "'=dust",
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [name, "labels.csv"]
    assert (tmp_path / "out" / name).read_bytes() == b"scratched"


def test_corrected_pictures_are_written_whole_or_not_at_all(
    station: Said, recorded: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    code, _, err = station("feedback", "--out", out)
    assert code == 2
    assert "there is no corrected picture to write" in err and "found no feedback" in err
    for part in ("part-1", "part-2"):
        station("feedback", part, "--label", "good")
    broken = "export.runtime.log.corrections._write_through"
    with monkeypatch.context() as patch:
        written: list[Path] = []

        def fail(path: Path, data: bytes) -> None:
            if written:
                raise OSError(28, "No space left on device")
            path.write_bytes(data)
            written.append(path)

        patch.setattr(broken, fail)
        assert station("feedback", "--out", out)[0] == 3
        assert written
    assert [path.name for path in islice(tmp_path.iterdir(), 5)] == ["store"]
    assert station("feedback", "--out", out)[0] == 0
    before = sorted(out.iterdir())
    code, _, err = station("feedback", "--out", out)
    assert code == 2 and "exists already" in err
    assert sorted(out.iterdir()) == before
