import errno
import os
import sys
from pathlib import Path

import pytest

from export.runtime.files import flush, flush_tree, make_folder, write_atomic


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "record"
    for data in (b"old", b"new" * 100_000):
        write_atomic(path, data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot flush folders")
def test_names_are_flushed_as_well_as_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    make_folder(tmp_path / "a" / "b")
    write_atomic(tmp_path / "a" / "b" / "file", b"x")
    file = tmp_path / "a" / "b" / "file"
    assert flushed == [path.stat().st_ino for path in (tmp_path, tmp_path / "a", file, file.parent)]
    flushed.clear()
    flush_tree(tmp_path / "a")
    assert set(flushed) == {path.stat().st_ino for path in (file, file.parent, tmp_path / "a")}
    make_folder(tmp_path / "a" / "b")
    assert len(flushed) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot flush folders")
@pytest.mark.parametrize(("error", "told"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_only_a_file_system_that_flushes_no_folders_is_excused(
    error: int, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(error, os.strerror(error))

    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match=os.strerror(error)):
        flush(tmp_path / "file")
    if told:
        with pytest.raises(OSError, match=os.strerror(error)):
            flush(tmp_path)
    else:
        flush(tmp_path)
