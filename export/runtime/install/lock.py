"""One at a time: a lock that its holder's end releases, however it ends."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.runtime.errors import UsageError

_LOOK_EVERY_S = 0.02

if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(path: Path, busy: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock that the file ``path`` stands for, in a folder that exists; its content means nothing.

    Raises UsageError, with ``busy`` in its words, where another process or thread holds it still after ``wait_s``.
    """
    # The file stays: removing one that another process has just opened would give two of them a lock each.
    with path.open("ab") as stream:
        until = time.monotonic() + wait_s
        while True:
            try:
                _take(stream.fileno())
                break
            except OSError as error:
                if not isinstance(error, (BlockingIOError, PermissionError)):
                    raise
                if time.monotonic() >= until:
                    fix = "Wait until it has ended, then try again"
                    raise UsageError(busy, expected=f"the lock {path} free", found="held", fix=fix) from None
                time.sleep(_LOOK_EVERY_S)
        yield  # closing the file releases the lock
