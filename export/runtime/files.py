"""Files that appear under their name only once they are whole, and are still there after the power failed."""

import errno
import os
import sys
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file beside its place, put it there at once, and flush both to disk; raises OSError.

    The place holds what it held before or the whole of ``data``, whenever the process stops or the power fails.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    flush(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it where they lack, each to be found again after the power failed."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush(path.parent)


def flush(path: Path) -> None:
    """Return once the bytes of a file, or the names in a folder, are on disk; raises OSError."""
    folder = path.is_dir()
    if sys.platform == "win32" and folder:
        return  # Windows cannot open a folder to flush it
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (folder and error.errno == errno.EINVAL):  # some network file systems flush files alone
            raise
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Flush every file and folder in a folder, then itself; raises OSError."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)
