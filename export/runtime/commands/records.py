"""Commands on the log: show it, export it, and take the operator's corrections."""

import argparse
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from export.runtime.commands.common import Commands, at_least, say, store_of
from export.runtime.errors import FactoryError, UsageError
from export.runtime.log.corrections import write_corrections
from export.runtime.log.entry import Feedback, Row
from export.runtime.log.history import History
from export.runtime.log.table import Format, format_of, unarmed, write_table
from export.runtime.manifest import parse_manifest

_LONGEST = 200  # characters of a label or a note


def add(commands: Commands, keys: argparse.ArgumentParser) -> None:
    """Add log, export-log and feedback."""
    log = commands.add_parser("log", parents=[keys], help="show the last verdicts, or all that is known of one part")
    log.add_argument("part", nargs="?", metavar="PART", help="a part's name; without it, the last parts")
    log.add_argument("--last", type=at_least(int, 1), default=20, metavar="N", help="how many (default: 20)")
    log.add_argument("--json", action="store_true", help="print one JSON object")
    log.set_defaults(run=_log)
    export = commands.add_parser("export-log", parents=[keys], help="write the log to a CSV or Parquet file")
    export.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    export.add_argument("--format", choices=get_args(Format), help="default: by the file's suffix")
    export.add_argument("--since", type=_moment, metavar="T", help="UTC, such as 2026-01-31 or with T06:00")
    export.add_argument("--until", type=_moment, metavar="T", help="UTC; up to and without that moment")
    export.set_defaults(run=_export)
    feedback = commands.add_parser("feedback", parents=[keys], help="say what a part was in truth, or collect that")
    feedback.add_argument("part", nargs="?", metavar="PART", help="a part's name, as `station log` shows it")
    feedback.add_argument("--label", metavar="LABEL", help="what it was in truth")
    feedback.add_argument("--note", metavar="TEXT", help="a remark for whoever reads it")
    feedback.add_argument("--out", type=Path, metavar="DIR", help="write the corrected pictures to a new folder")
    feedback.set_defaults(run=_feedback)


def _moment(text: str) -> str:
    """Return a time as entries have it."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a time such as 2026-01-31T06:00, found {text}") from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _log(options: argparse.Namespace) -> int:
    with History(store_of(options)) as history:
        rows = history.latest(options.last) if options.part is None else _rows_of(history, options.part)
        said = {row.id: history.feedback_of(row.id) for row in rows}
        counts = history.counts()
    if options.json:
        parts = [
            {"row": row.id, **asdict(row.entry), "feedback": [asdict(feedback) for feedback in said[row.id]]}
            for row in rows
        ]
        print(json.dumps({"parts": parts, "counts": counts}))
    elif options.part is None:
        print("\n".join(_table(rows)))
        told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        say(f"{sum(counts.values())} on record: {told}")
    else:
        print("\n\n".join("\n".join(_explained(row, said[row.id], store_of(options))) for row in rows))
    if rows:
        part = shlex.quote(rows[0].entry.part)
        say(f"next: station log {part}" if options.part is None else f"next: station feedback {part} --label LABEL")
    return 0


def _rows_of(history: History, part: str) -> list[Row]:
    rows = history.of_part(part)
    if not rows:
        raise UsageError(
            f"no part {part!r} on record",
            expected="a name as `station log` shows it",
            found="none of that name",
            fix="See station log --last 100, or export the whole log: station export-log --out log.csv",
        )
    return rows


def _table(rows: Sequence[Row]) -> list[str]:
    heads = ("time", "part", "verdict", "label", "score", "threshold", "novelty", "ms", "bundle", "corrected")
    lines = [heads, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _cells(row: Row) -> tuple[str, ...]:
    entry = row.entry
    numbers = (_number(value) for value in (entry.score, entry.threshold, entry.novelty, entry.ms))
    corrected = "" if row.feedback is None else _shown(row.feedback.label)
    verdict = f"{entry.verdict} (fault)" if entry.fault else entry.verdict
    return entry.time, _shown(entry.part), verdict, _shown(entry.label), *numbers, entry.bundle, corrected


def _explained(row: Row, said: Sequence[Feedback], store: Path) -> list[str]:
    """Everything about one picture, a line a fact."""
    entry = row.entry
    facts = {"row": row.id, **asdict(entry), "picture": _where(row, store)}
    del facts["kept"]
    lines = [f"{name:<11}{_number(v) if isinstance(v, float) else _shown(v)}" for name, v in facts.items()]
    for feedback in said:
        note = "" if feedback.note is None else f" ({_shown(feedback.note)})"
        lines.append(f"{'feedback':<11}{feedback.time}: {_shown(feedback.label)}{note}")
    return lines


def _where(row: Row, store: Path) -> str:
    if row.entry.kept is None:
        return "not kept"
    path = store / row.entry.kept
    return str(path) if path.exists() else f"{path}, which is gone"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _shown(value: object) -> str:
    """A text that moves no cursor, whatever name a file had."""
    text = "-" if value is None else str(value)
    return text if text.isprintable() else ascii(text)


def _export(options: argparse.Namespace) -> int:
    chosen = format_of(options.out, options.format)
    with History(store_of(options)) as history:
        number = write_table(options.out, chosen, history.since(start=options.since, end=options.until))
    print(f"{number} rows written to {options.out}")
    say("next: open that file; one part in full: station log PART")
    return 0


def _feedback(options: argparse.Namespace) -> int:
    correcting = options.part is not None and options.label is not None and options.out is None
    collecting = options.out is not None and options.part is None and options.label is None and options.note is None
    if not (correcting or collecting):
        raise UsageError(
            "say either what one part was, or where to write all corrections",
            expected="station feedback PART --label LABEL, or station feedback --out DIR",
            found="neither of the two" if options.out is None else "a mixture of the two",
            fix="Give one of them",
        )
    store = store_of(options)
    with History(store) as history:
        return _collect(history, store, options.out) if collecting else _correct(history, store, options)


def _correct(history: History, store: Path, options: argparse.Namespace) -> int:
    rows = _rows_of(history, options.part)
    row, entry = rows[0], rows[0].entry
    label, note = _checked_label(store, entry.bundle, options.label), _checked("note", options.note)
    now = datetime.now(UTC)
    time = f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z"
    history.correct(row.id, Feedback(time=time, label=label, note=note))
    called = f"{entry.verdict} ({entry.label})" if entry.label else entry.verdict
    print(f"part {_shown(entry.part)} of {entry.time} was called {called} and is {label}")
    if len(rows) > 1:
        say(f"there are {len(rows)} pictures of that name: the correction is of the latest; others go by their source")
    if entry.kept is None:
        say("its picture was not kept, so it cannot be trained on")
    say("next: station feedback --out DIR, to carry all corrections to the workstation")
    return 0


def _collect(history: History, store: Path, out: Path) -> int:
    number, gone = write_corrections(store, history.corrected(), out)
    for row in gone:
        say(f"{_shown(row.entry.part)} of {row.entry.time}: no picture of it is kept")
    print(f"{number} corrected pictures written to {out}")
    say(f"next: carry that folder to the workstation; there: factory add-feedback LINE {shlex.quote(out.name)}")
    return 0


def _checked_label(store: Path, bundle: str, label: str) -> str:
    """Return the label if the bundle that judged the part has it, or cannot be asked."""
    labels = _labels(store, bundle)
    if labels is None:
        checked = str(_checked("label", label))
        if checked != unarmed(checked):
            raise UsageError("the label is none", expected="a name", found=label, fix="Begin it with a letter")
        return checked
    if label not in labels:
        expected = f"one of {', '.join(labels)}"
        raise UsageError("the bundle knows no such label", expected=expected, found=label, fix="Give one of these")
    return label


def _labels(store: Path, bundle: str) -> tuple[str, ...] | None:
    if not re.fullmatch("[0-9a-f]{16}", bundle):
        return None
    try:
        return parse_manifest((store / "bundles" / bundle / "manifest.json").read_bytes()).labels
    except (OSError, FactoryError):
        return None


def _checked(what: str, text: str | None) -> str | None:
    if text is None or (text.strip() and text.isprintable() and len(text) <= _LONGEST):
        return text
    expected = f"1 to {_LONGEST} printable characters"
    raise UsageError(f"the {what} cannot be taken", expected=expected, found=ascii(text[:40]), fix="Write it shorter")
