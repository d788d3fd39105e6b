"""Tables of trained networks: which network a row is, how good it became, and the scores that the table brings."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from export.runtime.errors import UsageError
from factory.spaces.protocol import Space

# Columns that together name a network of a space, and what joins them to one string.
ARCHITECTURE: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "residual": (("genome",), ""),
    "darts": (("normal", "reduce"), " | "),
    "nasbench101": (("adjacency_7x7", "ops"), ","),
    "nasbench201": (("arch",), ""),
    "transnas-micro": (("arch",), ""),
    "transnas-macro": (("arch",), ""),
}
# Columns of other names than the score's own. Units differ, ranks do not.
ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "params": ("params_m",),
    "flops": ("macs_m",),
    "zen": ("zen_cifar10", "zen_class_scene"),
}
FAILED: Final = -1e8  # what NASLib writes where a score could not be computed

Line: TypeAlias = tuple[int, dict[str, Any]]  # its number in the file, and its cells


@dataclass(frozen=True, slots=True)
class Trained:
    """A network, its trained result (more is better), and its scores in the table; nan where one is missing."""

    arch: str
    truth: float
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class Table:
    """Networks in the order of the file, and how many rows were left out because they have no result."""

    networks: list[Trained]
    without_result: int


def load_table(path: Path, space: Space, metric: str, where: Sequence[tuple[str, str]], scores: Sequence[str]) -> Table:
    """Read a .csv with a header, or a .jsonl with one object a line.

    Args:
        path: of the table.
        space: that its networks are of; they are named by the columns of `ARCHITECTURE`.
        metric: column of the trained result.
        where: columns and the value that rows must have in each.
        scores: names of scores to read where the table has a column of the name, or of its `ALIASES`.

    Raises:
        UsageError: if the file or a column is missing, a cell is not a number or a network of the space, or a network
            has several rows.
    """
    lines = _json_lines(path) if path.suffix == ".jsonl" else _csv_lines(path)
    columns = list(dict.fromkeys(column for _, cells in lines for column in cells))
    parts, joint = ARCHITECTURE[space.name]
    _require(path, columns, parts, "Choose the --space that the table is of")
    _require(path, columns, (metric, *(column for column, _ in where)), "Choose a column that the table has")
    for column, value in where:
        lines = _selected(path, lines, column, value)
    named = [(_arch(path, line, space, parts, joint), line) for line in lines]
    _refuse_several(path, named)
    brought = {name: own for name in scores if (own := _column(name, columns)) is not None}
    networks = [
        Trained(
            arch,
            _number(path, line, metric),
            {name: _number(path, line, column) for name, column in brought.items()},
        )
        for arch, line in named
    ]
    known = [network for network in networks if not math.isnan(network.truth)]
    return Table(known, len(networks) - len(known))


def _require(path: Path, columns: Sequence[str], names: Sequence[str], fix: str) -> None:
    for name in names:
        if name not in columns:
            raise UsageError(f"{path} has no column {name!r}", expected=name, found=", ".join(columns), fix=fix)


def _selected(path: Path, lines: Sequence[Line], column: str, value: str) -> list[Line]:
    chosen = [line for line in lines if str(line[1].get(column, "")) == value]
    if not chosen:
        there = sorted({str(cells.get(column, "")) for _, cells in lines})
        found = ", ".join(there[:12]) + (" and others" if len(there) > 12 else "")
        raise UsageError(f"no row of {path} has {column}={value}", expected="a value of the table", found=found)
    return chosen


def _csv_lines(path: Path) -> list[Line]:
    lines: list[Line] = []
    with _open(path) as text:
        reader = csv.reader(text, strict=True)
        try:
            header = next(reader, [])
            for row in reader:
                if len(row) not in (0, len(header)):
                    _refuse(path, reader.line_num, f"{len(header)} cells, as in the header", str(len(row)))
                if row:
                    lines.append((reader.line_num, dict(zip(header, row, strict=True))))
        except (csv.Error, UnicodeDecodeError) as error:
            _refuse(path, max(1, reader.line_num), "comma-separated text in UTF-8", str(error))
    return _some(path, lines)


def _json_lines(path: Path) -> list[Line]:
    lines: list[Line] = []
    number = 0
    with _open(path) as text:
        try:
            for number, line in enumerate(text, 1):
                cells = json.loads(line) if line.strip() else {}
                if not isinstance(cells, dict):
                    _refuse(path, number, "one JSON object", line.strip()[:40])
                if cells:
                    lines.append((number, cells))
        except ValueError as error:
            _refuse(path, number, "one JSON object a line, in UTF-8", str(error))
    return _some(path, lines)


def _open(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"no table at {path}", expected="a .csv or .jsonl file", found="nothing", fix="Check the path")
    return path.open(encoding="utf-8-sig", newline="")


def _some(path: Path, lines: list[Line]) -> list[Line]:
    if not lines:
        raise UsageError(f"{path} has no rows", expected="a header and a row a network", found="none")
    return lines


def _refuse(path: Path, number: int, expected: str, found: str) -> None:
    fix = "Correct that line, or leave it out"
    raise UsageError(f"{path}, line {number}, cannot be read", expected=expected, found=found, fix=fix)


def _arch(path: Path, line: Line, space: Space, parts: Sequence[str], joint: str) -> str:
    number, cells = line
    text = joint.join(str(cells.get(part, "")) for part in parts)
    try:
        return space.check(text)
    except ValueError as error:
        raise UsageError(
            f"{path}, line {number}, names no network of {space.name}: {error}",
            fix="Choose the --space that the table is of, or correct that line",
        ) from error


def _refuse_several(path: Path, named: Sequence[tuple[str, Line]]) -> None:
    first: dict[str, Line] = {}
    for arch, line in named:
        before = first.setdefault(arch, line)
        if before is not line:
            differ = [column for column, cell in line[1].items() if cell != before[1].get(column)]
            words = [column for column in differ if not _is_number(line[1][column])] or differ
            raise UsageError(
                f"{path} has several rows of one network",
                expected="one",
                found=f"lines {before[0]} and {line[0]} of {arch}, which differ in {', '.join(words) or 'nothing'}",
                fix=f"Choose among them: --where {words[0]}={line[1][words[0]]}" if words else "Leave one out",
            )


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def _column(name: str, columns: Sequence[str]) -> str | None:
    return next((column for column in (name, *ALIASES.get(name, ())) if column in columns), None)


def _number(path: Path, line: Line, column: str) -> float:
    """The cell, or nan where it is empty or says that the source has none."""
    cell = line[1].get(column)
    if cell in ("", None):
        return math.nan
    if not _is_number(cell):
        _refuse(path, line[0], f"a number as {column}", repr(cell))
    value = float(cell)
    return value if math.isfinite(value) and value != FAILED else math.nan
