import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from export.runtime.files import NotPlainError, TooLargeError, read_plain, write_atomic


def test_a_file_of_at_most_the_limit_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_plain(tmp_path / "a", 5) == b"12345"
    with pytest.raises(TooLargeError, match=r"^5$"):
        read_plain(tmp_path / "a", 4)
    with pytest.raises(FileNotFoundError):
        read_plain(tmp_path / "b", 5)


def test_a_giant_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    with (tmp_path / "giant").open("wb") as stream:
        stream.truncate(1 << 42)
    with pytest.raises(TooLargeError, match=str(1 << 42)):
        read_plain(tmp_path / "giant", 1 << 30)


def bound(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.symlink_to(path.with_name("real")), "is a link"),
        (lambda path: path.symlink_to("nowhere"), "is a link"),
        (lambda path: path.symlink_to(path.name), "is a link"),
        (lambda path: path.hardlink_to(path.with_name("real")), "has another name elsewhere"),
        (lambda path: path.mkdir(), "is not a plain file"),
        (os.mkfifo, "is not a plain file"),
        (bound, "is not a plain file"),
    ],
)
def test_what_is_no_plain_file_is_refused_without_waiting(
    make: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    (tmp_path / "real").write_bytes(b"x")
    make(tmp_path / "x")
    before = len(list(Path("/dev/fd").iterdir())) if Path("/dev/fd").exists() else 0
    with pytest.raises(NotPlainError, match=said):
        read_plain(tmp_path / "x", 10, names=1)
    after = len(list(Path("/dev/fd").iterdir())) if Path("/dev/fd").exists() else 0
    assert after == before


def test_a_device_is_refused() -> None:
    with pytest.raises(NotPlainError, match="is not a plain file"):
        read_plain(Path("/dev/zero"), 10)


def test_several_names_are_fine_where_nobody_minds(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert read_plain(tmp_path / "b", 1) == b"x"


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, looked = tmp_path / "a", os.fstat
    path.write_bytes(b"x")

    def fstat(descriptor: int) -> os.stat_result:
        found = looked(descriptor)
        path.write_bytes(b"x" * 100)
        return found

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(TooLargeError, match="more than 10"):
        read_plain(path, 10)


def test_an_atomic_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_atomic(tmp_path / "a", b"first")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "a", b"second")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"first")]
