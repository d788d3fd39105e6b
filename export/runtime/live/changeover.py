"""Another version, noticed when it is installed and loaded beside the one that runs, which does not wait for it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from export.runtime.errors import FactoryError
from export.runtime.install.state import read_state, state_file
from export.runtime.live.running import Running


@dataclass(frozen=True, slots=True)
class Unloadable:
    """A version that could not be loaded, and why."""

    bundle: str
    reason: str


class Changeover:
    """Watches what is installed at a store; ``load`` gives it ready to judge."""

    def __init__(self, store: Path, load: Callable[[], Running]) -> None:
        self._store = store
        self._load = load
        self._seen = self._stamp()
        self._loading: Thread | None = None
        self._found: Running | Unloadable | None = None

    def ready(self, running: str) -> Running | Unloadable | None:
        """Return the version that replaces the bundle ``running``, once it is loaded; else None, at once."""
        if self._loading is not None:
            if self._loading.is_alive():
                return None
            found, self._found, self._loading = self._found, None, None
            return found
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        self._loading = Thread(target=self._look, args=(running,), name="changeover", daemon=True)
        self._loading.start()
        return None

    def _look(self, running: str) -> None:
        bundle = ""
        try:
            current = read_state(self._store).current
            if current is not None and current.bundle != running:
                bundle = current.bundle
                self._found = self._load()
        except FactoryError as error:
            self._found = Unloadable(bundle, str(error))
        except Exception as error:  # whatever a damaged engine's library raises, the version that runs goes on
            self._found = Unloadable(bundle, f"{type(error).__name__}: {error}")

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = state_file(self._store).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
