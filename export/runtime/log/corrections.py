"""What operators corrected, as a folder to carry to the workstation: the pictures and one list of them."""

import csv
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from export.runtime.errors import UsageError
from export.runtime.log.entry import Row
from export.runtime.log.table import unarmed

LIST: Final = "labels.csv"
COLUMNS: Final = ("path", "label", "part", "verdict", "bundle", "note")


def write_corrections(store: Path, rows: Iterable[Row], out: Path) -> tuple[int, list[Row]]:
    """Write the pictures of corrected rows and ``labels.csv`` (COLUMNS) to a new folder, whole or not at all.

    Returns the number written, and the rows whose picture was not kept, or is no longer there as it was.
    Raises UsageError where ``out`` exists or no picture is there to write, OSError where it cannot be written.
    """
    if out.exists():
        raise UsageError(f"{out} exists already", expected="a new folder", found="one", fix="Name another by --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{os.getpid()}.partial")
    gone: list[Row] = []
    try:
        beside.mkdir()
        number = _write(beside, store, rows, gone)
        if not number:
            raise UsageError(
                "there is no corrected picture to write",
                expected="parts with feedback whose pictures are kept",
                found=f"{len(gone)} with feedback, no picture of them" if gone else "no feedback",
                fix="Give feedback first: station feedback PART --label LABEL; passes are kept by keep_passes",
            )
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return number, gone


def _write(folder: Path, store: Path, rows: Iterable[Row], gone: list[Row]) -> int:
    number = 0
    with (folder / LIST).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for row, name, picture in _pictures(store, rows, gone):
            _write_through(folder / name, picture)
            writer.writerow(_line(row, name))
            number += 1
        stream.flush()
        os.fsync(stream.fileno())
    return number


def _pictures(store: Path, rows: Iterable[Row], gone: list[Row]) -> Iterator[tuple[Row, str, bytes]]:
    for row in rows:
        path = None if row.entry.kept is None else store / row.entry.kept
        try:
            picture = b"" if path is None else path.read_bytes()
        except OSError:
            picture = b""
        if path is not None and hashlib.sha256(picture).hexdigest() == row.entry.sha256:
            yield row, path.name, picture
        else:
            gone.append(row)


def _line(row: Row, name: str) -> list[object]:
    label = None if row.feedback is None else row.feedback.label
    note = None if row.feedback is None else row.feedback.note
    return [name, label, *map(unarmed, (row.entry.part, row.entry.verdict, row.entry.bundle, note))]


def _write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
