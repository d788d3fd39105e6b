"""Files that change between two looks, and paths that mean two things; the rest is asked through whole bundles."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from export.runtime import contents
from export.runtime.contents import MAX_DEPTH, MAX_FILES, MAX_PATH, check_paths, read_contents
from export.runtime.errors import BundleRefused
from export.runtime.manifest import FileEntry

DATA = {"a.bin": b"first", "b/c.bin": b"second"}


def entries() -> list[FileEntry]:
    return [
        FileEntry(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest(), role="report")
        for path, data in DATA.items()
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "bundle"
    for path, data in {**DATA, "manifest.json": b"", "manifest.sig": b""}.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(data)
    return place


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def a_giant(path: Path) -> None:
    os.truncate(path, 1 << 40)


def other_bytes(path: Path) -> None:
    path.write_bytes(b"f!rst")


def nothing(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("swap", "said"),
    [
        (a_fifo, "found one that is not a plain file"),
        (a_link, "found one that is a link"),
        (a_giant, f"found {1 << 40}"),
        (other_bytes, "SHA-256"),
        (a_folder, "found one that is not a plain file"),
    ],
)
def test_a_file_swapped_after_the_check_is_refused(
    swap: Callable[[Path], None], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = contents._check_tree

    def check_and_swap(place: Path, listed: set[str], what: str) -> dict[str, int]:
        sizes = check(place, listed, what)
        swap(folder / "a.bin")
        return sizes

    assert read_contents(folder, entries()) == DATA
    monkeypatch.setattr(contents, "_check_tree", check_and_swap)
    with pytest.raises(BundleRefused, match=r"a\.bin was changed after signing") as error:
        read_contents(folder, entries())
    assert said in str(error.value)


def test_no_file_is_opened_before_every_size_fits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "read_plain", lambda *_, **__: pytest.fail("opened"))
    os.truncate(folder / "b" / "c.bin", 1 << 40)
    with pytest.raises(BundleRefused, match=r"b/c\.bin was changed after signing: expected 6 bytes"):
        read_contents(folder, entries())


def test_a_file_with_a_second_name_is_refused(folder: Path) -> None:
    (folder.parent / "elsewhere").hardlink_to(folder / "b" / "c.bin")
    with pytest.raises(BundleRefused, match=r"b/c\.bin has another name elsewhere"):
        read_contents(folder, entries())


def test_a_name_that_steers_a_terminal_is_not_repeated_as_it_is(folder: Path) -> None:
    (folder / "\x1b[2J\u202e").write_bytes(b"")
    with pytest.raises(BundleRefused, match=r"'\\x1b\[2J\\u202e' is a file the manifest does not list") as error:
        read_contents(folder, entries())
    assert str(error.value).isprintable()


def test_a_crowded_folder_is_not_read_to_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_FILES", 5)
    for number in range(50):
        (folder / f"x{number:02}").write_bytes(b"")
    seen: list[str] = []
    scan = os.scandir

    class Scan:
        def __init__(self, place: Path) -> None:
            self.entries = scan(place)

        def __enter__(self) -> "Scan":
            return self

        def __exit__(self, *_: object) -> None:
            self.entries.close()

        def __iter__(self) -> "Scan":
            return self

        def __next__(self) -> os.DirEntry[str]:
            entry = next(self.entries)
            seen.append(entry.name)
            return entry

    monkeypatch.setattr(os, "scandir", Scan)
    with pytest.raises(BundleRefused, match="does not list"):
        read_contents(folder, entries())
    assert 5 < len(seen) <= 10


@pytest.mark.parametrize(
    "path",
    [
        "CON", "nul.png", "golden/aux", "COM1.txt", "lpt9", "con .txt", "x/PRN.tar.gz", "CONIN$",
        "a?", "a*b", "a|b", "<a",
        'a"b', "\uff0e\uff0e/x", "x\uff0fy", "com\u00b9", "\ufb01le", "\u212a", "x\u00a0y", "x\u200by", "cafe\u0301",
        "\ud800", "x" * (MAX_PATH + 1), "/".join(["x"] * (MAX_DEPTH + 1)), "a/.. /b", "a./b", "\\\\server\\share", "C:",
    ],
)  # fmt: skip
def test_a_path_that_means_something_else_somewhere_is_refused(path: str) -> None:
    with pytest.raises(BundleRefused, match="the path"):
        check_paths([path])


@pytest.mark.parametrize(
    "paths",
    [
        ("a", "A"), ("a", "a"), ("a", "a/b"), ("a/b", "a"), ("A/b", "a/c"), ("stra\u00dfe", "STRASSE"),
        ("a/b/c", "a/B"),
        ("\u01c6", "\u01c4"),
    ],
)  # fmt: skip
def test_two_paths_that_are_one_somewhere_are_refused(paths: tuple[str, str]) -> None:
    with pytest.raises(BundleRefused, match=r"by letter case at most|a file and a folder|composed form"):
        check_paths(paths)


def test_plain_paths_are_taken() -> None:
    check_paths(["a/b/c", "a/b/d", "a/c", "b", "conference.png", "com10", "r\u00e9sum\u00e9.html", "x y", "~", ".x"])
    check_paths([f"f/{number}" for number in range(MAX_FILES)])
    check_paths(["x" * MAX_PATH, "/".join(["x"] * MAX_DEPTH)])
    with pytest.raises(BundleRefused, match=f"one of more than {MAX_FILES}"):
        check_paths([f"f/{number}" for number in range(MAX_FILES + 1)])
