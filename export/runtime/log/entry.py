"""What the log holds: a verdict a row, and what an operator said of it later."""

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One inspected picture; None where a fault left no value.

    ``part`` is a name for people, ``source`` the unique key of this very picture, such as name, size and time of a
    file or the UUID of a request. ``time`` is UTC with milliseconds, "2026-01-31T12:00:00.123Z". ``verdict`` is pass,
    reject, review or class; ``score`` the reject score, on a line that sorts the probability of ``label``. ``sha256``
    is the hex digest of the picture's bytes, ``kept`` where those bytes lie now, below the store.
    """

    part: str
    source: str
    time: str
    bundle: str
    verdict: str
    label: str | None
    score: float | None
    threshold: float | None
    novelty: float | None
    brightness: float | None
    sharpness: float | None
    ms: float | None
    sha256: str | None
    kept: str | None
    reason: str | None
    fault: str | None


FIELDS: Final = tuple(field.name for field in fields(Entry))


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """An operator's correction of one row: the label the part has in truth, a note, and when it was said (UTC)."""

    time: str
    label: str
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An entry with its place in the log, which is the order of the verdicts, and the latest correction of it."""

    id: int
    entry: Entry
    feedback: Feedback | None


def written(time: datetime) -> str:
    """Return a time that knows its zone as an entry has it: UTC with milliseconds."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
