"""The log as one flat table: its columns, and how they become a CSV file or a Parquet file."""

import csv
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Final, Literal, TypeAlias

from export.runtime.errors import UsageError
from export.runtime.log.entry import FIELDS, Row
from export.runtime.log.parquet import write_parquet

Format: TypeAlias = Literal["csv", "parquet"]
Cell: TypeAlias = int | float | str | None

_REAL: Final = ("score", "threshold", "novelty", "brightness", "sharpness", "ms")
COLUMNS: Final[Mapping[str, type[int] | type[float] | type[str]]] = {
    "row": int,
    **{name: float if name in _REAL else str for name in FIELDS},
    "corrected": str,
    "note": str,
}
_fields = attrgetter(*FIELDS)
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")


def cells(row: Row) -> tuple[Cell, ...]:
    """Return a row's values in the order of COLUMNS; ``corrected`` is the label that an operator gave last."""
    said = (None, None) if row.feedback is None else (row.feedback.label, row.feedback.note)
    return row.id, *_fields(row.entry), *said


def unarmed(cell: Cell) -> Cell:
    """Return a cell that a spreadsheet takes for text: one that would begin a formula gets an apostrophe before it.

    As advised by OWASP, "CSV Injection"; numbers are left alone.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULAS) else cell


def format_of(path: Path, named: Format | None) -> Format:
    """Return the format that was named, else the one of the suffix; raises UsageError where neither says."""
    by_suffix: dict[str, Format] = {".csv": "csv", ".parquet": "parquet"}
    chosen = named or by_suffix.get(path.suffix.lower())
    if chosen is None:
        raise UsageError(
            f"what format {path} is to have is not said",
            expected="a name that ends in .csv or .parquet, or --format",
            found=path.suffix or "no suffix",
            fix="Name the file so, or give --format csv",
        )
    return chosen


def write_table(path: Path, chosen: Format, rows: Iterable[Row]) -> int:
    """Write rows to a file that appears once it is whole, and return their number; memory does not grow with them.

    Raises EnvironmentLacks where Parquet is wanted and pyarrow is not installed, OSError where it cannot be written.
    """
    write: Callable[[Path, Iterable[tuple[Cell, ...]]], int] = _write_csv
    if chosen == "parquet":
        write = _write_parquet
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        number = write(beside, map(cells, rows))
        with beside.open("rb+") as stream:
            os.fsync(stream.fileno())
        beside.replace(path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    return number


def _write_csv(path: Path, rows: Iterable[tuple[Cell, ...]]) -> int:
    number = 0
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for number, row in enumerate(rows, 1):  # noqa: B007
            writer.writerow([unarmed(cell) for cell in row])
    return number


def _write_parquet(path: Path, rows: Iterable[tuple[Cell, ...]]) -> int:
    return write_parquet(path, COLUMNS, rows)
