"""Verdicts on record before they are told; while the log cannot be written, the safe verdict, the rows in memory."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Final

from export.runtime.errors import FactoryError
from export.runtime.log.log import Entry, Log

WAITING: Final = 10_000  # rows that wait in memory for a log that cannot be written
AGAIN_S: Final = 2.0  # between two attempts to write it: each may take as long as the log waits for its lock


class Recorder:
    """Writes to a log and counts what it wrote; whoever calls takes care that one does at a time.

    ``safe`` is the verdict on a part whose own cannot be put on record.
    """

    def __init__(self, log: Log, safe: str, say: Callable[[str], None]) -> None:
        self._log, self._safe, self._say = log, safe, say
        self._waiting = deque[Entry]()
        self.fault: str | None = None
        self._tried = 0.0
        self.lost = 0
        self.verdicts = Counter[str]()
        self.faults = 0

    @property
    def waiting(self) -> int:
        """How many rows wait for the log."""
        return len(self._waiting)

    def entry_of(self, source: str) -> Entry | None:
        """Return what is on record of a picture; None where nothing is, or the log cannot be read."""
        try:
            return self._log.entry_of(source)
        except FactoryError:
            return None  # told when the verdict is put on record

    def record(self, entry: Entry, picture: bytes | None) -> Entry:
        """Return the entry as it is on record, or as it will be: a part that is on record keeps its first verdict."""
        self.mend()
        entry = self._write(entry, picture) if self.fault is None else self._put_off(entry, self.fault)
        self.verdicts[entry.verdict] += 1
        self.faults += entry.fault is not None
        return entry

    def mend(self) -> None:
        """After a fault, and some time, try to record what waits; nobody may send a part before all is well."""
        if self.fault is None or monotonic() - self._tried < AGAIN_S:
            return
        try:
            self.catch_up()
        except FactoryError as error:
            self.fault, self._tried = _spoken(error), monotonic()
        else:
            self.fault = None
            self._say("the log can be written again, and what waited is on record")

    def catch_up(self) -> None:
        """Record what waits; raises as ``Log.record`` does."""
        while self._waiting:
            self._log.record(self._waiting[0], None)
            self._waiting.popleft()

    def close(self) -> None:
        """Record what waits if that can be done, and close the log."""
        try:
            self.catch_up()
        except FactoryError as error:
            self._say(f"FAULT: {len(self._waiting)} verdicts could not be put on record: {error}")
        self._log.close()

    def _write(self, entry: Entry, picture: bytes | None) -> Entry:
        try:
            return self._log.record(entry, picture)
        except FactoryError as error:
            self.fault, self._tried = _spoken(error), monotonic()
            self._say(f"FAULT: {self.fault}")
            return self._put_off(entry, self.fault)

    def _put_off(self, entry: Entry, fault: str) -> Entry:
        if len(self._waiting) == WAITING:
            self._waiting.popleft()
            self.lost += 1
        verdict = "reject" if entry.verdict == "reject" else self._safe
        put_off = replace(entry, verdict=verdict, fault=entry.fault or fault)
        self._waiting.append(put_off)
        return put_off


def _spoken(error: FactoryError) -> str:
    return f"the verdict could not be put on record: {error}"
