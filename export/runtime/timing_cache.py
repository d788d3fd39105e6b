"""TensorRT's timings of its own kernels, kept between builds: a build that repeats another takes seconds, not minutes.

Only TensorRT times kernels while it builds; TensorRT-RTX chooses on the station and has no use for such a file.
"""

import errno
import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from export.runtime.files import write_atomic

_HASH_BYTES: Final = 32


class TimingCache:
    """One file for one GPU and one version of TensorRT: the SHA-256 of the timings, then the timings."""

    def __init__(self, folder: Path, version: str, gpu: str, capability: str) -> None:
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"tensorrt-{version}-{gpu}-{capability}")
        self.path = folder / f"{name}.timings"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the cache alone, for a whole build: two builds on one GPU would spoil each other's timings."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("a+b") as stream:
            _lock(stream.fileno())
            yield

    def read(self) -> bytes:
        """Return the timings; none where there is no file, or where it is damaged, which is then set aside."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        timings = data[_HASH_BYTES:]
        if hashlib.sha256(timings).digest() != data[:_HASH_BYTES]:
            self.set_aside("it is damaged")
            return b""
        return timings

    def set_aside(self, reason: str) -> None:
        """Move the file out of the way and say so; the next build times everything anew."""
        aside = self.path.with_suffix(".damaged")
        self.path.replace(aside)
        logging.getLogger(__name__).warning("the timing cache was set aside as %s: %s", aside, reason)

    def write(self, timings: bytes) -> None:
        """Replace the file by one with these timings, whole or not at all."""
        write_atomic(self.path, hashlib.sha256(timings).digest() + timings)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        while True:
            try:
                return msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
            except OSError as error:  # it gives up after ten seconds, a build takes longer
                if error.errno != errno.EDEADLK:
                    raise
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
