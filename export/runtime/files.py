"""Files that appear under their name only once they are whole and on disk."""

import os
from pathlib import Path


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
