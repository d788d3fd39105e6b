import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.runtime import image
from export.runtime.errors import UsageError
from factory.data.dataset import Dataset, list_items, load, prepare, problems
from factory.profiles import LineProfile

Paint = Callable[..., Path]
LineOf = Callable[..., LineProfile]
Row = tuple[str, str, str, str]  # path, label, split, group
LIST = {"images": {"layout": "csv"}}


def prepared(line: LineProfile, root: Path, folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return prepare(line, root, list_items(line, root), folder, lambda: None)


def listed(root: Path, rows: Sequence[Row]) -> None:
    lines = ["path,label,split,group", *(",".join(row) for row in rows)]
    (root / "labels.csv").write_text("\n".join(lines))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def twenty(root: Path, paint: Paint) -> list[Row]:
    """Rows of twenty pictures, ten a class, without splits and groups."""
    rows = [(f"{i:02}.png", ("good", "bad")[i % 2], "", "") for i in range(20)]
    for i, (path, *_) in enumerate(rows):
        paint(root / path, i)
    return rows


def everything(data: Dataset) -> dict[str, tuple[str, int, np.ndarray]]:
    """Split, label and pixels of every picture by its path."""
    return {
        path: (name, int(label), picture)
        for name, part in (("train", data.train), ("val", data.val), ("test", data.test))
        for path, label, picture in zip(part.paths, part.labels, part.images, strict=True)
    }


@pytest.mark.parametrize("layout", ["folders", "csv"])
def test_both_layouts_give_every_picture_with_its_label(
    layout: str, root: Path, twenty: list[Row], line_of: LineOf, tmp_path: Path
) -> None:
    if layout == "csv":
        listed(root, twenty)
    else:
        for path, label, *_ in twenty:
            (root / label).mkdir(exist_ok=True)
            (root / path).rename(root / label / path)
    line = line_of(images={"layout": layout}, input={"height": 16, "width": 32})
    check = prepared(line, root, tmp_path / "stage")
    data = load(line, tmp_path / "stage")
    assert check["classes"] == {label: {"train": 6, "val": 2, "test": 2} for label in ("good", "bad")}
    assert check["sizes"] == {"24x24": 20}
    assert (data.labels, data.good) == (("good", "bad"), 0)
    found = everything(data)
    assert len(found) == 20
    for path, (_, label, pixels) in found.items():
        np.testing.assert_array_equal(pixels, image.load(root / path, 16, 32, 1))
        assert data.labels[label] == {name: own for name, own, *_ in twenty}[Path(path).name]
    for part in (data.train, data.val, data.test):
        assert part.raw_labels == tuple(data.labels[label] for label in part.labels)
        assert part.images.dtype == np.uint8 and part.labels.dtype == np.int64


def test_the_same_images_give_the_same_files(root: Path, twenty: list[Row], line_of: LineOf, tmp_path: Path) -> None:
    listed(root, twenty)
    for name in ("one", "two"):
        prepared(line_of(**LIST), root, tmp_path / name)
    for name in ("images.npy", "index.json", "check.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_splits_of_the_folders_are_kept_and_validation_is_taken_from_training(
    root: Path, paint: Paint, line_of: LineOf, tmp_path: Path
) -> None:
    for i in range(40):
        paint(root / ("test" if i < 8 else "train") / ("good", "bad")[i % 2] / f"{i}.png", i)
    prepared(line_of(), root, tmp_path / "stage")
    data = load(line_of(), tmp_path / "stage")
    assert {int(Path(path).stem) for path in data.test.paths} == set(range(8))
    assert Counter(data.val.labels.tolist()) == {0: 4, 1: 4}
    assert len(data.train.labels) == 24


def test_copies_of_a_picture_stay_together_and_are_listed(
    root: Path, twenty: list[Row], paint: Paint, line_of: LineOf, tmp_path: Path
) -> None:
    copies = [(f"copy-{i}.bmp", "good", "", "") for i in range(6)]
    for path, *_ in copies:
        paint(root / path, 0)
    listed(root, [*twenty, *copies])
    check = prepared(line_of(**LIST), root, tmp_path / "stage")
    same = {"00.png", *(path for path, *_ in copies)}
    assert [set(paths) for paths in check["duplicates"]] == [same]
    assert (check["leaks"], check["contradictions"]) == ([], [])
    found = everything(load(line_of(**LIST), tmp_path / "stage"))
    assert len({found[path][0] for path in same}) == 1


def test_one_picture_with_two_labels_is_told(
    root: Path, twenty: list[Row], paint: Paint, line_of: LineOf, tmp_path: Path
) -> None:
    paint(root / "copy.png", 0)
    listed(root, [*twenty, ("copy.png", "bad", "", "")])
    assert prepared(line_of(**LIST), root, tmp_path / "stage")["contradictions"] == [["00.png", "copy.png"]]


def given(rows: Sequence[Row]) -> list[Row]:
    """The rows with splits that hold both classes: twelve to train, four each to val and test."""
    return [
        (path, label, ("train", "val", "test")[(i >= 12) + (i >= 16)], "") for i, (path, label, *_) in enumerate(rows)
    ]


def test_a_picture_in_two_given_splits_is_refused_by_name(
    root: Path, twenty: list[Row], paint: Paint, line_of: LineOf, tmp_path: Path
) -> None:
    paint(root / "copy.bmp", 3)
    listed(root, [*given(twenty), ("copy.bmp", "bad", "test", "")])
    check = prepared(line_of(**LIST), root, tmp_path / "stage")
    assert check["leaks"] == [["03.png", "copy.bmp"]]
    with pytest.raises(UsageError, match=r"the same picture stands in two splits: 03\.png, copy\.bmp"):
        load(line_of(**LIST), tmp_path / "stage")


def test_a_group_in_two_given_splits_is_refused_by_name(
    root: Path, twenty: list[Row], line_of: LineOf, tmp_path: Path
) -> None:
    rows = [
        (path, label, part, "wafer 7" if path in ("01.png", "17.png") else "") for path, label, part, _ in given(twenty)
    ]
    listed(root, rows)
    prepared(line_of(**LIST), root, tmp_path / "stage")
    with pytest.raises(UsageError, match="groups stand in two splits: wafer 7; keep each in one"):
        load(line_of(**LIST), tmp_path / "stage")


def test_groups_are_not_parted(root: Path, twenty: list[Row], line_of: LineOf, tmp_path: Path) -> None:
    listed(root, [(path, label, "", f"g{int(path[:2]) // 4}") for path, label, *_ in twenty])
    line = line_of(images={"layout": "csv", "split": [0.4, 0.3, 0.3]})
    check = prepared(line, root, tmp_path / "stage")
    assert check["parted_groups"] == []
    parts: dict[int, set[str]] = {}
    for path, (name, *_) in everything(load(line, tmp_path / "stage")).items():
        parts.setdefault(int(path[:2]) // 4, set()).add(name)
    assert len(parts) == 5
    assert all(len(names) == 1 for names in parts.values())


def test_an_unreadable_picture_among_good_ones_is_left_out_and_listed(
    root: Path, twenty: list[Row], line_of: LineOf, tmp_path: Path
) -> None:
    (root / "05.png").write_bytes((root / "05.png").read_bytes()[:100])
    listed(root, twenty)
    check = prepared(line_of(**LIST), root, tmp_path / "stage")
    assert check["images"] == 19
    (bad,) = check["unreadable"]
    assert bad["path"] == "05.png" and "is damaged" in bad["reason"]
    found = everything(load(line_of(**LIST), tmp_path / "stage"))
    assert len(found) == 19 and "05.png" not in found


def test_more_than_one_unreadable_in_twenty_is_refused(
    root: Path, twenty: list[Row], line_of: LineOf, tmp_path: Path
) -> None:
    for name in ("05.png", "06.png"):
        (root / name).write_text("no picture at all")
    listed(root, twenty)
    check = prepared(line_of(**LIST), root, tmp_path / "stage")
    assert len(check["unreadable"]) == 2
    with pytest.raises(UsageError, match=r"2 of 20 files cannot be read, more than the 5%.*first: 05\.png.*not a pict"):
        load(line_of(**LIST), tmp_path / "stage")


def test_nothing_readable_at_all_is_refused(root: Path, twenty: list[Row], line_of: LineOf, tmp_path: Path) -> None:
    for path, *_ in twenty:
        (root / path).write_text("text")
    listed(root, twenty)
    with pytest.raises(UsageError, match=r"none of the 20 pictures in .* can be read: found .*is not a picture"):
        prepared(line_of(**LIST), root, tmp_path / "stage")


def test_a_class_that_misses_in_a_split_is_refused(
    root: Path, twenty: list[Row], line_of: LineOf, tmp_path: Path
) -> None:
    rows = [
        (path, label, "train" if label == "bad" and part == "test" else part, "")
        for path, label, part, _ in given(twenty)
    ]
    listed(root, rows)
    prepared(line_of(**LIST), root, tmp_path / "stage")
    with pytest.raises(UsageError, match="class bad has no image in test; add images or regroup"):
        load(line_of(**LIST), tmp_path / "stage")


def test_two_pictures_of_a_class_are_too_few_to_split(
    root: Path, twenty: list[Row], line_of: LineOf, tmp_path: Path
) -> None:
    listed(root, [row for row in twenty if row[1] == "good" or row[0] in ("01.png", "03.png")])
    prepared(line_of(**LIST), root, tmp_path / "stage")
    with pytest.raises(UsageError, match="class bad has no image in"):
        load(line_of(**LIST), tmp_path / "stage")


def test_labels_are_merged_and_dropped_and_stay_known_as_found(
    root: Path, twenty: list[Row], line_of: LineOf, tmp_path: Path
) -> None:
    raw = ("good", "scratch", "dent", "unsure")
    listed(root, [(path, raw[i % 4], "", "") for i, (path, *_) in enumerate(twenty)])
    line = line_of(**LIST, classes={"merge": {"scratch": "bad", "dent": "bad"}, "drop": ["unsure"]})
    check = prepared(line, root, tmp_path / "stage")
    data = load(line, tmp_path / "stage")
    found = everything(data)
    assert set(found) == {path for i, (path, *_) in enumerate(twenty) if i % 4 != 3}
    assert check["images"] == 15
    for part in (data.train, data.val, data.test):
        for label, as_found in zip(part.labels, part.raw_labels, strict=True):
            assert (data.labels[label], as_found) in {("good", "good"), ("bad", "scratch"), ("bad", "dent")}
        assert set(part.raw_labels) == {"good", "scratch", "dent"}  # each raw label is stratified by itself


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({"labels": ["good", "scratch"]}, "labels the profile does not know: bad: expected good, scratch"),
        (
            {"labels": ["good", "bad", "dent"]},
            "no image of class dent: expected images of each of good, bad, dent, found images of bad, good",
        ),
        ({"drop": ["bad"]}, "no image of class bad: .*found images of good"),
    ],
)
def test_labels_that_do_not_fit_the_profile_are_told(
    classes: dict[str, Any], said: str, root: Path, twenty: list[Row], line_of: LineOf
) -> None:
    listed(root, twenty)
    with pytest.raises(UsageError, match=said):
        list_items(line_of(**LIST, classes=classes), root)


def test_one_class_only_is_refused(root: Path, paint: Paint, line_of: LineOf) -> None:
    for i in range(4):
        paint(root / "good" / f"{i}.png", i)
    with pytest.raises(UsageError, match="no image of class bad"):
        list_items(line_of(), root)


def test_a_list_without_rows_is_refused(root: Path, line_of: LineOf) -> None:
    listed(root, [])
    with pytest.raises(UsageError, match=r"no image of class good, bad: .*found images of no class"):
        list_items(line_of(**LIST), root)


def test_a_sorting_line_has_no_good_class(root: Path, twenty: list[Row], line_of: LineOf, tmp_path: Path) -> None:
    listed(root, twenty)
    line = line_of(**LIST, classes={"good": None})
    prepared(line, root, tmp_path / "stage")
    assert load(line, tmp_path / "stage").good is None


def test_the_prepared_images_outlive_the_originals(
    root: Path, twenty: list[Row], line_of: LineOf, tmp_path: Path
) -> None:
    listed(root, twenty)
    prepared(line_of(**LIST), root, tmp_path / "stage")
    shutil.rmtree(root)
    assert len(everything(load(line_of(**LIST), tmp_path / "stage"))) == 20


def test_many_leaks_are_summed_up() -> None:
    check = {
        "images": 40,
        "unreadable": [],
        "leaks": [[f"{i}a.png", f"{i}b.png"] for i in range(9)],
        "parted_groups": [],
        "classes": json.loads('{"good": {"train": 1, "val": 1, "test": 1}}'),
    }
    found = problems(check)
    assert len(found) == 6
    assert found[-1] == "... and 4 more pictures that leak between splits"
