from collections.abc import Callable
from pathlib import Path

import pytest

from export.runtime.errors import UsageError
from factory.data.index import Item, list_csv, list_folders

Paint = Callable[..., Path]


def test_class_folders_are_listed_in_order_at_any_depth(tmp_path: Path, paint: Paint) -> None:
    for name in ("b/2.PNG", "b/1.png", "a/deep/er/x.bmp", ".thumbnails/t.png"):
        paint(tmp_path / name, 0)
    (tmp_path / "b" / "notes.txt").write_text("no picture")
    (tmp_path / "readme.md").touch()
    assert list_folders(tmp_path) == [Item("a/deep/er/x.bmp", "a"), Item("b/1.png", "b"), Item("b/2.PNG", "b")]


def test_split_folders_are_taken_from_their_names(tmp_path: Path, paint: Paint) -> None:
    for name in ("Train/a/1.png", "valid/a/2.png", "testing/b/3.png"):
        paint(tmp_path / name, 0)
    assert {(i.path, i.raw_label, i.split) for i in list_folders(tmp_path)} == {
        ("Train/a/1.png", "a", "train"),
        ("valid/a/2.png", "a", "val"),
        ("testing/b/3.png", "b", "test"),
    }


def test_a_class_may_be_called_test_where_no_folder_is_called_train(tmp_path: Path, paint: Paint) -> None:
    for name in ("test/1.png", "good/2.png"):
        paint(tmp_path / name, 0)
    assert [(i.raw_label, i.split) for i in list_folders(tmp_path)] == [("good", None), ("test", None)]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nothing", "no folder of images at .*found nothing"),
        ("a file", "no folder of images at .*found a file"),
        ("empty", "no class folders in .*0 pictures and no folder"),
        ("flat", "no class folders in .*2 pictures and no folder.*CSV"),
        ("empty class", r"class folder .*scratch is empty: expected pictures \(.*\.png.*found none"),
        ("class of other files", "class folder .*scratch is empty"),
    ],
)
@pytest.mark.parametrize("listing", [list_folders, lambda root: list_csv(root, "labels.csv")], ids=["folders", "csv"])
def test_a_root_that_will_not_do_is_told(
    listing: Callable[[Path], list[Item]], kind: str, said: str, tmp_path: Path, paint: Paint
) -> None:
    root = tmp_path / "images"
    if kind == "a file":
        root.touch()
    elif kind != "nothing":
        root.mkdir()
    if kind == "flat":
        paint(root / "1.png", 1)
        paint(root / "2.png", 2)
    if "class" in kind:
        paint(root / "good" / "1.png", 1)
        (root / "scratch").mkdir()
    if kind == "class of other files":
        (root / "scratch" / "list.txt").touch()
    if listing is not list_folders and root.is_dir():
        said = r"labels\.csv: cannot be read"
    with pytest.raises(UsageError, match=said):
        listing(root)


HEAD = "path,label,split,group"


@pytest.fixture
def listed(tmp_path: Path, paint: Paint) -> Callable[[str], list[Item]]:
    for name in ("1.png", "2.png", "with, comma.png"):
        paint(tmp_path / name, 0)

    def listing(text: str) -> list[Item]:
        (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
        return list_csv(tmp_path, "labels.csv")

    return listing


def test_a_list_is_read_with_its_optional_columns(listed: Callable[[str], list[Item]]) -> None:
    rows = [HEAD, "1.png, good ,train,w1", "2.png,bad,Validation,", '"with, comma.png",bad,TEST, w2 ']
    assert listed("\n".join(rows)) == [
        Item("1.png", "good", "train", "w1"),
        Item("2.png", "bad", "val", None),
        Item("with, comma.png", "bad", "test", "w2"),
    ]
    assert listed("\ufefflabel,extra,path\r\ngood,7,1.png\r\n") == [Item("1.png", "good")]


@pytest.mark.parametrize(
    ("rows", "line", "said"),
    [
        (["1.png,good,train,", "3.png,bad,train,"], 3, r"no picture at .*3\.png"),
        (["1.png,good,trian,"], 2, "unknown split: expected train, val, test or nothing, found 'trian'"),
        (["1.png,good,,", "2.png,,,"], 3, "path or label is empty"),
        (["1.png,good,,", ",good,,"], 3, "path or label is empty"),
        (["1.png,good,,", "2.png"], 3, "path or label is empty"),
        (["1.png,good,,", "", "", ",good,,"], 5, "path or label is empty"),
        (['1.png,"go\nod",,', ",good,,"], 4, "path or label is empty"),
    ],
)
def test_a_wrong_row_is_told_by_its_line_in_the_file(
    rows: list[str], line: int, said: str, listed: Callable[[str], list[Item]]
) -> None:
    text = "\n".join([HEAD, *rows])
    with pytest.raises(UsageError, match=rf"labels\.csv, line {line}: {said}"):
        listed(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,class\n1.png,good\n", "missing column label: expected path,label .*found path,class"),
        ("", "missing column label, path: .*found an empty file"),
        ("file;label\n", "missing column label, path"),
    ],
)
def test_a_list_without_its_columns_is_told(text: str, said: str, listed: Callable[[str], list[Item]]) -> None:
    with pytest.raises(UsageError, match=said):
        listed(text)


def test_a_list_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"labels\.csv: cannot be read"):
        list_csv(tmp_path, "labels.csv")
