"""Files at the edge: written whole and on disk, or not at all; read only if plain and no larger than expected."""

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Final

# A link is not followed, a FIFO is not waited for; each where the system knows how.
_SAFELY: Final = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_A_LINK: Final = (errno.ELOOP, errno.EMLINK)  # how Linux and macOS, and FreeBSD, answer O_NOFOLLOW


class NotPlainError(Exception):
    """What lies there is a link, a folder, a device, or a file of several names; ``str()`` says which."""


class TooLargeError(Exception):
    """The file holds more bytes than expected; ``str()`` says how many."""


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


def read_plain(path: Path, limit: int, *, names: int | None = None) -> bytes:
    """Return a plain file's bytes, of which at most ``limit``, from the very file that was looked at.

    The descriptor is opened first and looked at then, so that nothing can be put in the file's place in between.
    ``names`` is the most hard links it may have, None for any number.

    Raises NotPlainError, TooLargeError before a byte is read, and OSError as ``os.open`` does.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _SAFELY)
    except OSError as error:
        if error.errno in _A_LINK or error.errno == errno.ENXIO:  # a socket cannot be opened at all
            raise NotPlainError("is a link" if error.errno in _A_LINK else "is not a plain file") from error
        raise
    try:
        found = os.fstat(descriptor)
        problem = why_not_plain(found, names)
        if problem:
            raise NotPlainError(problem)
        if found.st_size > limit:
            raise TooLargeError(str(found.st_size))
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            data = stream.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:  # it grew since
        raise TooLargeError(f"more than {limit}")
    return data


def why_not_plain(found: os.stat_result, names: int | None = None) -> str:
    """Return what keeps a file from being a plain one with at most so many names; nothing where it is."""
    if stat.S_ISLNK(found.st_mode):
        return "is a link"
    if not stat.S_ISREG(found.st_mode):
        return "is not a plain file"
    if names is not None and found.st_nlink > names:
        return "has another name elsewhere (a hard link)"
    return ""
