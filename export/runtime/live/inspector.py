"""Parts judged by what is installed: always a verdict, and on record before it is told.

What cannot be judged gets the verdict that the settings call safe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from time import perf_counter
from typing import Self
from uuid import uuid4

from export.runtime.errors import ImageRefused
from export.runtime.live.recorder import Recorder
from export.runtime.live.versions import Say, Trusted, Versions
from export.runtime.log.entry import written
from export.runtime.log.log import Entry, Log
from export.runtime.settings import read_settings
from export.runtime.station import Verdict


@dataclass(frozen=True, slots=True)
class Answer:
    """What is told of one part.

    ``ms`` are the milliseconds from the picture to the answer, with decoding and record. ``fault`` says why the part
    could not be judged or put on record; the verdict is then the safe one. What a fault left unknown is None.
    """

    part: str
    verdict: str
    label: str | None
    scores: dict[str, float] | None
    threshold: float | None
    ms: float
    bundle: str
    reason: str | None
    fault: str | None
    novelty: float | None
    brightness: float | None
    sharpness: float | None


class Inspector:
    """Judges parts, from several threads if need be; a context manager. Get one by ``Inspector.open``."""

    def __init__(self, versions: Versions, recorder: Recorder, safe: str) -> None:
        self._versions, self._recorder, self._safe = versions, recorder, safe
        self._lock = RLock()

    @classmethod
    def open(cls, store: Path, trusted: Trusted, say: Say) -> Self:
        """Return an inspector of what is installed at a store; ``say`` gets every event in a line for people.

        Raises UsageError where nothing is installed or the settings are wrong, and what ``Versions.open`` and ``Log``
        raise where nothing can run.
        """
        settings = read_settings(store)
        log = Log(store, keep_passes=settings.log.keep_passes, pictures_mb=settings.log.pictures_mb)
        try:
            versions = Versions.open(store, settings, trusted, say, log)
        except BaseException:
            log.close()
            raise
        return cls(versions, Recorder(log, settings.fault, say), settings.fault)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Put on record what waits for it, and close the log."""
        with self._lock:
            self._recorder.close()

    def inspect(self, picture: bytes, part: str, source: str | None = None) -> Answer:
        """Return the answer on a picture's bytes; bytes that are no picture get the safe verdict, with its fault.

        ``part`` is the part's name for people, ``source`` the key of this very picture: asked again, its first verdict
        is told again. Without one the picture is a new one.
        """
        begun = perf_counter()
        known = None if source is None else self.known(source)
        if known is not None:
            return known
        key = source or uuid4().hex
        answer = self._judged(picture, part, key, begun)
        if isinstance(answer, ImageRefused):
            return self._record(self._fault(part, key, str(answer)), picture, None, begun)
        return answer

    def try_inspect(self, picture: bytes, part: str, source: str) -> Answer | None:
        """Return what ``inspect`` does; None, and nothing on record, for bytes that are no picture, or not yet."""
        answer = self._judged(picture, part, source, perf_counter())
        return None if isinstance(answer, ImageRefused) else answer

    def known(self, source: str) -> Answer | None:
        """Return the answer that is on record, None where there is none or the log cannot be read."""
        with self._lock:
            entry = self._recorder.entry_of(source)
        return None if entry is None else _answer(entry, None)

    def unjudged(self, part: str, source: str, fault: str) -> Answer:
        """Return the answer on a part of which there is no picture: the safe verdict, with this fault."""
        return self._record(self._fault(part, source, fault), None, None, perf_counter())

    def poll(self) -> None:
        """Take over a version that was installed meanwhile, and mend what failed: for the time between two parts."""
        with self._lock:
            self._versions.poll()
            self._recorder.mend()

    @property
    def unrecorded(self) -> int:
        """How many verdicts wait for a log that cannot be written."""
        return self._recorder.waiting

    @property
    def reference(self) -> Mapping[str, Sequence[float]]:
        """What scores, brightness, sharpness and novelty are compared with for drift, in ascending order."""
        return self._versions.running.station.reference.values.by_name()

    def status(self) -> dict[str, object]:
        """Return what runs, since when, how it does, and what is wrong, as a JSON object; what can be mended is."""
        with self._lock:
            self.poll()
            running, recorder = self._versions.running, self._recorder
            problems = [problem for problem in (self._versions.problem, recorder.fault) if problem is not None]
            return {
                "bundle": running.bundle,
                "line": running.version.line,
                "since": running.version.since,
                "on_probation": self._versions.before is not None,
                "parts": running.parts,
                "verdicts": dict(recorder.verdicts),
                "faults": recorder.faults,
                "median_ms": running.median_ms,
                "limit_ms": running.limit_ms,
                "drift": [str(alarm) for alarm in self._versions.alarms],
                "unrecorded": recorder.waiting,
                "lost": recorder.lost,
                "healthy": not problems,
                "problems": problems,
            }

    def _judged(self, picture: bytes, part: str, source: str, begun: float) -> Answer | ImageRefused:
        self.poll()
        running = self._versions.running
        try:
            verdict = running.judge(picture)
        except ImageRefused as error:
            return error
        except Exception as error:  # an engine's library raises what it likes; the part needs a verdict
            with self._lock:
                recovered = self._versions.recover(running, picture, f"{type(error).__name__}: {error}")
            if isinstance(recovered, str):
                return self._record(self._fault(part, source, recovered), picture, None, begun)
            running, verdict = recovered
        with self._lock:
            self._versions.count(running, verdict, picture)
        return self._record(_entry(part, source, running.bundle, verdict), picture, verdict.scores, begun)

    def _fault(self, part: str, source: str, fault: str) -> Entry:
        return Entry(
            part=part, source=source, time=_now(), bundle=self._versions.running.bundle, verdict=self._safe,
            label=None, score=None, threshold=None, novelty=None, brightness=None, sharpness=None, ms=None,
            sha256=None, kept=None, reason=None, fault=fault,
        )  # fmt: skip

    def _record(self, entry: Entry, picture: bytes | None, scores: dict[str, float] | None, begun: float) -> Answer:
        entry = replace(entry, ms=(perf_counter() - begun) * 1000)
        with self._lock:
            entry = self._recorder.record(entry, picture)
        return replace(_answer(entry, scores), ms=(perf_counter() - begun) * 1000)


def _entry(part: str, source: str, bundle: str, verdict: Verdict) -> Entry:
    found = verdict._asdict()
    del found["scores"]
    return Entry(part=part, source=source, time=_now(), bundle=bundle, sha256=None, kept=None, fault=None, **found)


def _answer(entry: Entry, scores: dict[str, float] | None) -> Answer:
    return Answer(
        entry.part, entry.verdict, entry.label, scores, entry.threshold, entry.ms or 0.0, entry.bundle, entry.reason,
        entry.fault, entry.novelty, entry.brightness, entry.sharpness,
    )  # fmt: skip


def _now() -> str:
    return written(datetime.now(UTC))
