"""The folder that a camera's driver fills: which files are new, and whole."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from export.runtime.image import IMAGE_SUFFIXES


@dataclass(frozen=True, slots=True)
class Arrival:
    """A picture's file that has not changed for a while; ``waited`` for as long as an unreadable one is waited for.

    ``source`` tells it from any other, also from a later one of its name.
    """

    path: Path
    source: str
    waited: bool


@dataclass(slots=True)
class _Seen:
    stamp: tuple[int, int, int]
    since: float
    done: bool = False


class Inbox:
    """Looks into a folder again and again; memory grows with the files in it, not with those that have passed.

    Times are seconds; clocks that jump do not matter, since a file's time is compared with itself alone.
    """

    def __init__(self, folder: Path, settle_s: float, give_up_s: float) -> None:
        self._folder, self._settle_s, self._give_up_s = folder, settle_s, give_up_s
        self._seen: dict[str, _Seen] = {}

    def arrivals(self) -> Iterator[Arrival]:
        """Yield the files that can be taken now, the oldest first; names beginning with a dot are still being written.

        A file that is yielded and not marked by ``done`` is yielded again. Raises OSError where the folder is gone.
        """
        now = monotonic()
        found = {entry.name: entry for entry in self._entries()}
        for name in self._seen.keys() - found.keys():
            del self._seen[name]
        settled = []
        for name, entry in found.items():
            stamp = _stamp(entry)
            seen = self._seen.get(name)
            if stamp is None:
                continue
            if seen is None or seen.stamp != stamp:
                self._seen[name] = _Seen(stamp, now)
                seen = self._seen[name]
            if not seen.done and now - seen.since >= self._settle_s:
                settled.append((stamp, name, now - seen.since >= self._give_up_s))
        for stamp, name, waited in sorted(settled):
            yield Arrival(self._folder / name, f"{name}:{stamp[2]}:{stamp[0]}:{stamp[1]}", waited)

    def done(self, arrival: Arrival) -> None:
        """Do not yield this file again, unless it changes."""
        seen = self._seen.get(arrival.path.name)
        if seen is not None:
            seen.done = True

    def _entries(self) -> list[os.DirEntry[str]]:
        with os.scandir(self._folder) as entries:
            return [entry for entry in entries if _is_picture(entry.name)]


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int, int] | None:
    """Time of change in nanoseconds, inode, size; None for what is no plain file, or gone."""
    try:
        if not entry.is_file():
            return None
        found = Path(entry.path).stat()  # on Windows the entry's own figures are stale
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
