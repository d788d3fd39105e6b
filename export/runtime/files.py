"""Files at the edge: written whole or not at all, and read only if they are plain and no larger than expected."""

import errno
import os
import stat
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
    """Write a file beside its place, flush it to disk and put it there at once; raises OSError, leaving nothing."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


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
