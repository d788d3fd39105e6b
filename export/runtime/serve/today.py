"""How many parts of today have each verdict, whoever inspected them: counted in the log as its rows come."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from threading import Lock

from export.runtime.errors import FactoryError
from export.runtime.log.entry import written
from export.runtime.log.history import History


class Today:
    """Counts since midnight of this place; thread-safe. ``clock`` tells the time with its zone."""

    def __init__(self, history: History, clock: Callable[[], datetime] = lambda: datetime.now().astimezone()) -> None:
        self._history, self._clock = history, clock
        self._day = ""
        self._row = 0
        self._counts: Counter[str] = Counter()
        self._lock = Lock()

    def counts(self) -> Mapping[str, int]:
        """Return the numbers by verdict; those of the last time while the log cannot be read."""
        day = written(self._clock().replace(hour=0, minute=0, second=0, microsecond=0))
        with self._lock:
            try:
                if day != self._day:
                    self._row, self._counts, self._day = self._history.last_before(day), Counter(), day
                self._row, new = self._history.counts_behind(self._row)
                self._counts.update(new)
            except FactoryError:
                pass  # the inspector tells it
            return dict(self._counts)
