"""Figures of latency as text for people: columns that line up, unsteady ones marked, the machine below."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from export.runtime.manifest import JsonObject
from export.runtime.timing import CV_LIMIT

COLUMNS: Final = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "min_ms", "max_ms", "frames_per_s", "cv", "cv_turns", "runs")


def table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Figures in columns, ms a run; those of an unsteady run are marked and explained below."""
    width = max(len(name) for name, _ in rows) + 2
    heads = (column.removesuffix("_ms").replace("_per_", "/").replace("_", " ") for column in COLUMNS)
    found = ["".ljust(width) + "".join(head.rjust(13) for head in heads)]
    for name, figures in rows:
        cells = [_cell(column, figures) for column in COLUMNS]
        found.append(name.ljust(width) + "".join(cell.rjust(13) for cell in cells))
    if any(figures["noisy"] for _, figures in rows):
        found.append(unsteady())
    return found


def unsteady() -> str:
    """What the mark behind a coefficient of variation means."""
    return (
        f"* unsteady: the coefficient of variation of the runs (cv) is above {CV_LIMIT:g}. Something else was at work, "
        "or the clock changed: p99 and max tell of that too, and the median holds as far as its turns agree (cv turns)"
    )


def machine_lines(machine: Mapping[str, JsonObject]) -> list[str]:
    """A fingerprint (its ``asdict``) in two lines."""
    return [f"{part}: {'; '.join(_told(name, value) for name, value in machine[part].items())}" for part in machine]


def _told(name: str, value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(_told(f"{name} {inner}", found) for inner, found in value.items())
    return f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"


def _cell(column: str, figures: Mapping[str, Any]) -> str:
    value = figures[column]
    if column == "cv_turns":
        return f"{value:.1%}"
    if column == "cv":
        return f"{value:.2f}{' *' if figures['noisy'] else '  '}"
    return str(value) if column == "runs" else f"{value:.1f}" if column == "frames_per_s" else f"{value:.3f}"
