"""What operators corrected at the station becomes training pictures of the line, whole or not at all."""

import csv
import io
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from export.runtime.errors import UsageError
from export.runtime.log.corrections import LIST
from export.runtime.log.pictures import suffix_of
from factory.data.dataset import label_of, list_items
from factory.data.decode import Picture, decode_all
from factory.data.index import CORRECTED, Item, list_csv
from factory.profiles import Classes, LineProfile
from factory.workspace import digest, fsync_folder, sha256, write_atomic

_SHOWN: Final = 10  # contradictions named in one error


@dataclass(frozen=True, slots=True)
class Added:
    """How many pictures were added to which folder (None where all were skipped), and what was skipped, with why."""

    number: int
    folder: Path | None
    skipped: tuple[tuple[str, str], ...]


def add_feedback(line: LineProfile, root: Path, given: Path, tick: Callable[[], None]) -> Added:
    """Add the pictures of the folder that `station feedback --out` wrote to those of a line, under their true labels.

    They come to lie below `root/from-the-station`, in a folder that appears at once when it is whole; of a line with a
    CSV list that list is then replaced. They are only ever trained on (`Item.corrected`). `tick` is called after each
    picture that is looked at, the line's own and the given.

    Raises:
        UsageError: if the folder is none that a station wrote, a label is none the line trains on, or a picture is
            there already under another label; nothing is changed then.
    """
    items = _corrections(line, given)
    place = root / CORRECTED
    listed = list_items(line, root)
    own, _ = decode_all(root, listed, line.input, tick)
    pictures, unreadable = decode_all(given, items, line.input, tick)
    fresh, same = _fresh(line.classes, own, pictures)
    skipped = [*same, *((bad.item.path, f"cannot be read: {bad.reason}") for bad in unreadable)]
    if not fresh:
        return Added(0, None, tuple(skipped))
    place.mkdir(exist_ok=True)
    try:
        with FileLock(place / ".lock", timeout=0):
            folder = _write_batch(place, given, fresh, by_label=line.images.layout == "folders")
            if line.images.layout == "csv":
                splits = any(item.split for item in listed)
                _append(root, root / line.images.csv, folder, given, fresh, "train" if splits else "")
    except Timeout:
        raise UsageError(f"pictures are being added to {root} just now", fix="wait for that to end") from None
    return Added(len(fresh), folder, tuple(skipped))


def _corrections(line: LineProfile, given: Path) -> list[Item]:
    if not (given / LIST).is_file():
        raise UsageError(
            f"{given} holds no corrections",
            expected=f"a folder with {LIST} in it, as `station feedback --out` writes it",
            found="a folder without" if given.is_dir() else "no folder",
            fix="name that folder",
        )
    items = list_csv(given, LIST)
    outside = [item.path for item in items if Path(item.path).name != item.path]
    if outside:
        raise UsageError(f"{given / LIST}: not a file of that folder: {outside[0]!r}", expected="plain file names")
    raw = {item.raw_label: _raw_label(line, item.raw_label) for item in items}
    unknown = sorted(label for label, name in raw.items() if name is None)
    if unknown:
        raise UsageError(
            f"the corrections have labels that the line does not train on: {', '.join(unknown)}",
            expected=", ".join(line.classes.labels),
            found=", ".join(unknown),
            fix=f"correct the column label in {given / LIST}, or add them to classes.labels or classes.merge",
        )
    return [Item(item.path, str(raw[item.raw_label])) for item in items]


def _raw_label(line: LineProfile, label: str) -> str | None:
    """Return a label as the images may have it that means this one after merging; None where there is none."""
    classes = line.classes
    wanted = classes.merge.get(label, label)
    for raw in (label, *classes.merge):
        named = line.images.layout == "csv" or (Path(raw).name == raw and not raw.startswith("."))
        if classes.merge.get(raw, raw) == wanted and wanted in classes.labels and raw not in classes.drop and named:
            return raw
    return None


def _fresh(
    classes: Classes, own: Iterable[Picture], pictures: Iterable[Picture]
) -> tuple[list[Picture], list[tuple[str, str]]]:
    """The pictures that are new by their pixels, and those that are not with where they are; raises for a clash."""
    there = {picture.content: picture.item for picture in own}
    fresh, same, clashes = [], [], []
    for picture in pictures:
        item, known = picture.item, there.setdefault(picture.content, picture.item)
        if known is item:
            fresh.append(picture)
        elif label_of(classes, known) == label_of(classes, item):
            same.append((item.path, f"is there already as {known.path}"))
        else:
            clashes.append(f"{item.path} is corrected to {item.raw_label}, and {known.path} is {known.raw_label}")
    if clashes:
        more = [f"... and {len(clashes) - _SHOWN} more"] if len(clashes) > _SHOWN else []
        raise UsageError(
            "the same pictures have two labels:\n  " + "\n  ".join([*clashes[:_SHOWN], *more]),
            fix=f"Look at each: delete the wrong line of {LIST}, or take the other picture out of the line's images",
        )
    return fresh, same


def _write_batch(place: Path, given: Path, pictures: Sequence[Picture], *, by_label: bool) -> Path:
    """Write the pictures to a folder named by what they are, which appears once all are on disk; return it."""
    folder = place / digest(sorted([picture.content, picture.item.raw_label] for picture in pictures))[:12]
    if folder.exists():  # a run before this one was stopped between the pictures and the list
        return folder
    beside = place / ".incoming.partial"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        for picture in pictures:
            name, data = _named(given, picture)
            target = beside / picture.item.raw_label / name if by_label else beside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, data)
        fsync_folder(beside)
        beside.rename(folder)
        fsync_folder(place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _named(given: Path, picture: Picture) -> tuple[str, bytes]:
    """A picture's file name by its content, and its bytes."""
    data = (given / picture.item.path).read_bytes()
    return f"{sha256(data)}{suffix_of(data)}", data


def _append(root: Path, path: Path, folder: Path, given: Path, pictures: Sequence[Picture], split: str) -> None:
    """Add rows to a list, whose own lines stay as they are, byte by byte."""
    before = path.read_bytes()
    columns = csv.DictReader(io.StringIO(before.decode("utf-8-sig"), newline="")).fieldnames or ()
    ending = "\r\n" if b"\r\n" in before else "\n"
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator=ending)
    for picture in pictures:
        place = (folder / _named(given, picture)[0]).relative_to(root).as_posix()
        row = {"path": place, "label": picture.item.raw_label, "split": split}
        writer.writerow({name: value for name, value in row.items() if name in columns})
    gap = b"" if before.endswith((b"\n", b"\r")) else ending.encode()
    write_atomic(path, before + gap + text.getvalue().encode())
