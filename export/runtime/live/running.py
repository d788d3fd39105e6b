"""A version at work: its network, and how it does on live parts."""

from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.bench import latency_limit_ms
from export.runtime.drift.detector import Alarm, Detector
from export.runtime.drift.reference import QUANTITIES
from export.runtime.install.installed import load_version
from export.runtime.install.state import Version, installed, read_state
from export.runtime.log.entry import Entry
from export.runtime.settings import DriftSettings
from export.runtime.station import Station, Verdict

_REMEMBERED: Final = 1000  # parts whose milliseconds are known
_RUNS: Final = 5


class Running:
    """A version and what it has judged so far."""

    def __init__(self, version: Version, station: Station, drift: DriftSettings) -> None:
        self.version, self.station = version, station
        self.parts = 0
        self.slow_in_a_row = 0
        self._milliseconds = deque[float](maxlen=_REMEMBERED)
        reference = station.reference.values.by_name()
        self._detector = Detector(reference, drift.parts_between_false_alarms, one_in=drift.one_in)
        self.limit_ms = latency_limit_ms(station.manifest)

    @classmethod
    def load(cls, store: Path, trusted: Mapping[str, Ed25519PublicKey], drift: DriftSettings) -> Self:
        """Return what is installed, ready to judge; raises as ``load_installed`` does."""
        version = installed(store)
        return cls(version, load_version(store, version, trusted), drift)

    @classmethod
    def load_previous(cls, store: Path, trusted: Mapping[str, Ed25519PublicKey], drift: DriftSettings) -> Self | None:
        """Return the version before, ready to judge, None where there is none; raises as ``load_installed`` does."""
        version = read_state(store).previous
        return None if version is None else cls(version, load_version(store, version, trusted), drift)

    @property
    def bundle(self) -> str:
        """The bundle's id."""
        return self.version.bundle

    @property
    def median_ms(self) -> float | None:
        """The median milliseconds of the network on the latest parts, None before the first."""
        return median(self._milliseconds) if self._milliseconds else None

    def remember(self, entries: Iterable[Entry]) -> None:
        """Watch for drift as if these parts, the oldest first, were judged now; their alarms were told then."""
        for entry in entries:
            values = {name: getattr(entry, name) for name in QUANTITIES}
            if entry.bundle == self.bundle and None not in values.values():
                self._detector.add(values)

    def judge(self, picture: bytes) -> Verdict:
        """Return the verdict on a picture, its ``ms`` those of the network alone; raises as ``Station.inspect``."""
        return self.station.inspect(self.station.fitted(picture))

    def quickest_ms(self, picture: bytes) -> float:
        """Return the milliseconds of the network in the quickest of a few runs on a picture; raises as ``judge``."""
        return min(self.judge(picture).ms for _ in range(_RUNS))

    def count(self, verdict: Verdict) -> tuple[Alarm, ...]:
        """Count a part that was judged; return the alarms of drift that it raises."""
        self.parts += 1
        self._milliseconds.append(verdict.ms)
        slow = self.limit_ms is not None and verdict.ms > self.limit_ms
        self.slow_in_a_row = self.slow_in_a_row + 1 if slow else 0
        return self._detector.add({name: getattr(verdict, name) for name in QUANTITIES})
