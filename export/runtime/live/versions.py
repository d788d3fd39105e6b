"""Which version judges the next part: what is installed, the one before if that fails, or it again if that helps."""

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Final, Self, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.drift.detector import Alarm
from export.runtime.errors import FactoryError
from export.runtime.install.install import rollback
from export.runtime.install.state import read_state
from export.runtime.live.changeover import Changeover, Unloadable
from export.runtime.live.running import Running
from export.runtime.log.history import History
from export.runtime.settings import Settings
from export.runtime.station import Verdict

Trusted: TypeAlias = Callable[[], Mapping[str, Ed25519PublicKey]]
Say: TypeAlias = Callable[[str], None]

AGAIN_S: Final = 5.0  # between two attempts to open a network that failed
_ALARMS: Final = 20
_REMEMBERED: Final = 2000  # parts on record: a tenth of a second


class Versions:
    """The version that runs and, while it is on probation, the one before it, kept ready. One call at a time."""

    def __init__(
        self, store: Path, settings: Settings, trusted: Trusted, say: Say, history: History, running: Running
    ) -> None:
        self._store, self._settings, self._history = store, settings, history
        self._trusted, self._say = trusted, say
        self.running = running
        self.before: Running | None = None
        self.alarms = deque[Alarm](maxlen=_ALARMS)
        self.problem: str | None = None
        self._tried = 0.0
        self._changeover = Changeover(store, self._load)

    @classmethod
    def open(cls, store: Path, settings: Settings, trusted: Trusted, say: Say, history: History) -> Self:
        """Return the version that is installed; if it cannot be loaded, the one before it takes over.

        ``history`` tells how many parts it has judged so far, which is whether it is still on probation, and how they
        looked, so that drift is found across restarts.

        Raises as ``Running.load`` does where nothing can be loaded.
        """
        try:
            running = Running.load(store, trusted(), settings.drift)
        except FactoryError as error:
            if read_state(store).previous is None:
                raise
            rollback(store, trusted(), f"it could not be loaded: {error}")
            running = Running.load(store, trusted(), settings.drift)
            say(f"RETURNED to bundle {running.bundle}: the newer one could not be loaded: {error}")
        versions = cls(store, settings, trusted, say, history, running)
        running.parts = versions._judged(running.bundle)
        running.remember(reversed(history.last(_REMEMBERED)))
        if running.parts < settings.probation.parts:
            versions.before = versions._load_before()
        return versions

    def poll(self) -> None:
        """Take over a version that was installed meanwhile, once it is loaded; costs microseconds.

        A network that failed is opened again after some time: nobody may send a part before all is well.
        """
        if self.problem is not None and monotonic() - self._tried >= AGAIN_S:
            self._tried = monotonic()
            if self._reopen() is None:
                self._say("the network could be opened again")
                self.problem = None
        found = self._changeover.ready(self.running.bundle)
        if isinstance(found, Unloadable):
            goes_on = f"bundle {self.running.bundle} goes on"
            self._say(f"the version just installed cannot be loaded, {goes_on}: {found.reason}")
            self._take_back(found.bundle, f"it could not be loaded: {found.reason}")
        elif found is not None:
            self._say(f"bundle {found.bundle} takes over from {self.running.bundle}")
            found.parts = self._judged(found.bundle)
            on_probation = found.parts < self._settings.probation.parts
            self.before, self.running, self.problem = self.running if on_probation else None, found, None

    def count(self, running: Running, verdict: Verdict, picture: bytes) -> None:
        """Count a part, and end the probation of the version that judged it, one way or the other."""
        alarms = running.count(verdict)
        self.alarms.extend(alarms)
        for alarm in alarms:
            self._say(f"DRIFT: {alarm}")
        if running is not self.running or self.before is None:
            return
        rules = self._settings.probation
        if running.slow_in_a_row >= rules.slow_parts and self._before_is_in_time(picture):
            self._go_back(f"it took longer than {running.limit_ms:g} ms on {rules.slow_parts} parts in a row")
        elif alarms and rules.on_drift:
            self._go_back(f"drift: {alarms[0]}")
        elif running.parts >= rules.parts:
            self._say(f"bundle {running.bundle} has judged {running.parts} parts and stays")
            self.before = None

    def recover(self, failed: Running, picture: bytes, error: str) -> tuple[Running, Verdict] | str:
        """Return who judges the part on which ``failed`` failed, and its verdict; why nobody can, where nobody can."""
        if self.running is failed:
            if self.before is not None:
                self._go_back(error)
            elif self.problem is not None and monotonic() - self._tried < AGAIN_S:
                return self.problem
            else:
                self._say(f"the network failed and is opened again: {error}")
                lacking = self._reopen()
                if lacking is not None:  # the old one then fails once more, and that is told
                    self._say(f"it cannot be opened: {_spoken(lacking)}")
        try:
            verdict = self.running.judge(picture)
        except Exception as again:  # an engine's library raises what it likes
            problem = f"the network failed and could not be opened again: {_spoken(again)}"
            if self.problem is None:
                self._say(f"FAULT: {problem}")
            self.problem, self._tried = problem, monotonic()
            return problem
        self.problem = None
        return self.running, verdict

    def _before_is_in_time(self, picture: bytes) -> bool:
        """Whether the version before keeps the budget on this picture and the one on probation does not.

        Else the station is busy or slow, and going back would not help.
        """
        running, before = self.running, self.before
        running.slow_in_a_row = 0
        assert before is not None and running.limit_ms is not None
        try:
            return before.quickest_ms(picture) <= running.limit_ms < running.quickest_ms(picture)
        except Exception:  # an engine's library raises what it likes; who fails is told by the next part
            return False

    def _judged(self, bundle: str) -> int:
        """How many parts a bundle has judged here; none, where the log cannot tell."""
        try:
            return sum(self._history.counts(bundle).values())
        except FactoryError:
            return 0

    def _load(self) -> Running:
        return Running.load(self._store, self._trusted(), self._settings.drift)

    def _load_before(self) -> Running | None:
        try:
            return Running.load_previous(self._store, self._trusted(), self._settings.drift)
        except FactoryError as error:
            self._say(f"on probation without a way back, the version before cannot be loaded: {error}")
            return None

    def _reopen(self) -> Exception | None:
        """Open what is installed in the place of what runs; return why that could not be."""
        try:
            self.running = self._load()
        except Exception as lacking:  # whatever an engine's library raises
            return lacking
        return None

    def _go_back(self, reason: str) -> None:
        """Let the version before take over again, now; and write down that it did."""
        assert self.before is not None
        failed, self.running, self.before = self.running, self.before, None
        self._say(f"RETURNED from bundle {failed.bundle} to {self.running.bundle}: {reason}")
        self._take_back(failed.bundle, reason)

    def _take_back(self, bundle: str, reason: str) -> None:
        try:
            current = read_state(self._store).current
            if current is not None and current.bundle == bundle:
                rollback(self._store, self._trusted(), reason)
        except (FactoryError, OSError) as error:
            self._say(f"that could not be written down, and a restart would run bundle {bundle} again: {error}")


def _spoken(error: Exception) -> str:
    return str(error) if isinstance(error, FactoryError) else f"{type(error).__name__}: {error}"
