"""Corrected pictures become training pictures: under which label, in which part, and never half of them."""

import csv
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from export.runtime.errors import UsageError
from factory import feedback
from factory.data.dataset import list_items, load, prepare
from factory.feedback import Added, add_feedback
from factory.profiles import LineProfile
from tests.tiny import factory, make_images, make_line

Paint = Callable[..., Path]
LineOf = Callable[..., LineProfile]

LABELS = ("good", "bad")
LAYOUTS = ("folders", "split folders", "csv", "csv with splits")


def parts_of(line: LineProfile, root: Path, folder: Path) -> dict[str, tuple[str, str]]:
    """Split and label of every picture by its path, as a run would have them."""
    folder.mkdir()
    prepare(line, root, list_items(line, root), folder, lambda: None)
    data = load(line, folder)
    return {
        path: (name, line.classes.labels[label])
        for name, part in (("train", data.train), ("val", data.val), ("test", data.test))
        for path, label in zip(part.paths, part.labels, strict=True)
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def filled(root: Path, paint: Paint, line_of: LineOf) -> Callable[..., LineProfile]:
    """Thirty pictures of two classes in a layout, and the line that has it."""

    def fill(layout: str, **tables: dict[str, Any]) -> LineProfile:
        rows = []
        for i in range(30):
            label, split = LABELS[i % 2], ("train", "train", "test")[i // 2 % 3]
            folder = {"folders": label, "split folders": f"{split}/{label}"}.get(layout, "all")
            paint(root / folder / f"{i:02}.png", i)
            rows.append(f"all/{i:02}.png,{label}" + (f",{split}" if layout == "csv with splits" else ""))
        if layout.startswith("csv"):
            head = "path,label,split" if layout == "csv with splits" else "path,label"
            (root / "labels.csv").write_bytes("\r\n".join([head, *rows]).encode())
            return line_of(images={"layout": "csv"}, **tables)
        return line_of(**tables)

    return fill


@pytest.fixture
def given(tmp_path: Path, paint: Paint) -> Callable[..., Path]:
    """A folder as the station writes it: pictures of these seeds, corrected to these labels."""

    def write(rows: Sequence[tuple[int, str]], name: str = "given") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        with (folder / "labels.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["path", "label", "part", "verdict", "bundle", "note"])
            for number, (seed, label) in enumerate(rows):
                paint(folder / f"{number}.png", seed)
                writer.writerow([f"{number}.png", label, f"part-{number}", "reject", "b", ""])
        return folder

    return write


def add(line: LineProfile, root: Path, folder: Path) -> Added:
    return add_feedback(line, root, folder, lambda: None)


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_they_are_trained_on_and_every_other_picture_stays_in_its_part(
    layout: str, filled: Callable[..., LineProfile], given: Callable[..., Path], root: Path, tmp_path: Path
) -> None:
    line = filled(layout)
    before, files = parts_of(line, root, tmp_path / "before"), everything(root)
    first = add(line, root, given([(100 + i, LABELS[i // 8]) for i in range(16)], "one"))
    second = add(line, root, given([(200, "bad")], "two"))
    after = parts_of(line, root, tmp_path / "after")
    assert (first.number, second.number, first.skipped, second.skipped) == (16, 1, (), ())
    assert {part for part, _ in before.values()} == {"train", "val", "test"}
    assert {path: after[path] for path in before} == before
    new = sorted(after.keys() - before.keys())
    assert all(path.startswith("from-the-station/") for path in new)
    assert sorted(after[path] for path in new) == [("train", "bad")] * 9 + [("train", "good")] * 8
    left = everything(root)
    assert {path: left[path] for path in files if path != "labels.csv"} == {
        path: data for path, data in files.items() if path != "labels.csv"
    }


@pytest.mark.parametrize("layout", ["csv", "csv with splits"])
def test_a_list_keeps_its_lines_byte_by_byte(
    layout: str, filled: Callable[..., LineProfile], given: Callable[..., Path], root: Path
) -> None:
    line = filled(layout)
    before = (root / "labels.csv").read_bytes()
    add(line, root, given([(100, "bad"), (101, "good")]))
    after = (root / "labels.csv").read_bytes()
    assert after.startswith(before + b"\r\n")
    rows = list(csv.DictReader(after.decode().splitlines()))[30:]
    assert [row["label"] for row in rows] == ["bad", "good"]
    assert [row.get("split") for row in rows] == ([None] * 2 if layout == "csv" else ["train"] * 2)
    assert all((root / row["path"]).is_file() for row in rows)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_there_already_is_skipped_and_told(
    layout: str, filled: Callable[..., LineProfile], given: Callable[..., Path], root: Path
) -> None:
    line = filled(layout)
    folder = given([(0, "good"), (100, "bad"), (100, "bad")])
    (folder / "1.png").rename(folder / "again.png")
    (folder / "1.png").write_bytes((folder / "again.png").read_bytes())
    added = add(line, root, folder)
    assert added.number == 1
    assert [path for path, _ in added.skipped] == ["0.png", "2.png"]
    assert "00.png" in added.skipped[0][1] and "1.png" in added.skipped[1][1]
    before = everything(root)
    again = add(line, root, folder)
    assert (again.number, again.folder, len(again.skipped)) == (0, None, 3)
    assert everything(root) == before


def test_what_cannot_be_read_is_skipped_and_told(
    filled: Callable[..., LineProfile], given: Callable[..., Path], root: Path
) -> None:
    line, folder = filled("folders"), given([(100, "bad"), (101, "bad")])
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:60])
    added = add(line, root, folder)
    assert added.number == 1
    assert added.skipped[0][0] == "0.png" and "cannot be read" in added.skipped[0][1]


def test_the_same_picture_under_two_labels_is_refused(
    filled: Callable[..., LineProfile], given: Callable[..., Path], root: Path
) -> None:
    line = filled("folders")
    before = everything(root)
    with pytest.raises(UsageError) as caught:
        add(line, root, given([(0, "bad"), (100, "good"), (100, "bad"), (101, "bad")]))
    text = str(caught.value)
    assert "0.png is corrected to bad, and good/00.png is good" in text
    assert "2.png is corrected to bad, and 1.png is good" in text
    assert "3.png" not in text
    assert everything(root) == before


def test_labels_are_those_of_the_line_after_merging(
    filled: Callable[..., LineProfile], given: Callable[..., Path], root: Path, tmp_path: Path
) -> None:
    line = filled("folders", classes={"labels": ["good", "defect"], "merge": {"bad": "defect"}, "drop": ["blurred"]})
    added = add(line, root, given([(100, "defect"), (101, "bad"), (1, "defect")]))
    assert added.number == 2
    assert added.skipped == (("2.png", "is there already as bad/01.png"),)
    after = parts_of(line, root, tmp_path / "after")
    assert [after[path] for path in after if path.startswith("from")] == [("train", "defect")] * 2
    for label in ("scratch", "blurred"):
        with pytest.raises(UsageError, match=f"does not train on: {label}: expected good, defect"):
            add(line, root, given([(102, label)], label))


@pytest.mark.parametrize("label", ["../out", "a/b", ".hidden"])
def test_a_label_that_is_no_folder_name_leaves_none(
    filled: Callable[..., LineProfile], given: Callable[..., Path], root: Path, label: str
) -> None:
    line = filled("folders", classes={"labels": ["good", label], "merge": {"bad": label}})
    added = add(line, root, given([(100, label)]))
    assert added.folder is not None
    assert [path.parent.name for path in added.folder.rglob("*.png")] == ["bad"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "labels.csv").unlink(), "holds no corrections: expected a folder with labels.csv"),
        (lambda folder: (folder / "0.png").unlink(), "no picture at"),
        (lambda folder: (folder / "labels.csv").write_text("path,label\n../given/0.png,bad\n"), "not a file of that"),
        (lambda folder: (folder / "labels.csv").write_text("path\n0.png\n"), "missing column label"),
    ],
)
def test_a_folder_that_no_station_wrote_is_refused(
    filled: Callable[..., LineProfile],
    given: Callable[..., Path],
    root: Path,
    spoil: Callable[[Path], Any],
    said: str,
) -> None:
    line, folder = filled("folders"), given([(100, "bad")])
    spoil(folder)
    before = everything(root)
    with pytest.raises(UsageError, match=said):
        add(line, root, folder)
    assert everything(root) == before


class Stopped(BaseException):
    """The power fails."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stopped_at_any_write_the_data_set_is_as_it_was_or_whole(
    layout: str,
    filled: Callable[..., LineProfile],
    given: Callable[..., Path],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line, folder = filled(layout), given([(100, "bad"), (101, "good"), (102, "bad")])
    before = list_items(line, root)
    write, rename = feedback.write_atomic, Path.rename
    left = 0

    def step() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stopped

    def writing(path: Path, data: bytes) -> None:
        step()
        write(path, data)
        step()

    def renaming(self: Path, target: Path) -> Path:
        step()
        moved = rename(self, target)
        step()
        return moved

    monkeypatch.setattr(feedback, "write_atomic", writing)
    monkeypatch.setattr(Path, "rename", renaming)
    monkeypatch.setattr(feedback, "shutil", SimpleNamespace(rmtree=leave_behind))
    stops = 0
    while True:
        left = stops
        try:
            add(line, root, folder)
            break
        except Stopped:
            stops += 1
            now = list_items(line, root)
            assert len(now) == len(before) + 3 or now == before
    assert stops >= 8
    after = parts_of(line, root, tmp_path / "after")
    assert sum(path.startswith("from-the-station") for path in after) == 3


def leave_behind(path: Path, *, ignore_errors: bool) -> None:
    """Tidy before the work as ever, and not behind it: a dead process cannot."""
    if sys.exc_info()[0] is None:
        shutil.rmtree(path, ignore_errors=ignore_errors)


def test_two_do_not_add_at_once(filled: Callable[..., LineProfile], given: Callable[..., Path], root: Path) -> None:
    line, folder = filled("csv"), given([(100, "bad")])
    (root / "from-the-station").mkdir()
    before = (root / "labels.csv").read_bytes()
    with FileLock(root / "from-the-station" / ".lock"), pytest.raises(UsageError, match="just now"):
        add(line, root, folder)
    assert (root / "labels.csv").read_bytes() == before
    assert add(line, root, folder).number == 1


def test_the_command_says_what_it_did(tmp_path: Path, given: Callable[..., Path]) -> None:
    line = make_line(tmp_path, make_images(tmp_path / "pictures", 6))
    folder = given([(100, "scratch"), (101, "good")])
    (folder / "1.png").write_bytes((tmp_path / "pictures" / "good" / "003.png").read_bytes())
    result = factory("add-feedback", line, folder)
    assert result.exit_code == 0, result.output
    assert "1 pictures added in " in result.stdout and "trained on, never tested on" in result.stdout
    assert "skipped 1.png: is there already as good/003.png" in result.stderr
    assert f"next: factory run {line}" in result.stderr
    document = json.loads(factory("add-feedback", line, folder, "--json").stdout)
    assert (document["added"], document["folder"], len(document["skipped"])) == (0, None, 2)
    refused = factory("add-feedback", line, tmp_path / "nowhere")
    assert refused.exit_code == 2 and "holds no corrections" in refused.stderr
