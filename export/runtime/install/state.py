"""What is installed at a station: one file, replaced at once, never half written."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from export.runtime.errors import BundleRefused, GateError, UsageError
from export.runtime.files import make_folder, write_atomic
from export.runtime.install.lock import locked
from export.runtime.manifest import JsonObject
from export.runtime.strictjson import canonical_bytes, read_json, shape

NAME: Final = "state.json"
FOLDER: Final = "bundles"
_MAX_BYTES: Final = 1 << 20
_MOMENT_S: Final = 10.0  # writing takes milliseconds, so whoever holds the lock for longer does not live


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """An installed bundle: its id, line and time of making, the key that vouched for it, since when it runs or ran.

    Times are UTC, such as 2026-01-31T12:00:00Z. ``self_test`` is what was measured when it was installed.
    """

    bundle: str
    line: str
    created: str
    key_id: str
    since: str
    self_test: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A bundle that was taken back because of what it did while it ran."""

    bundle: str
    when: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What runs, what ran before, the time of making of the newest bundle ever installed of each line, and failures."""

    schema: Literal[1] = 1
    current: Version | None = None
    previous: Version | None = None
    newest: dict[str, str] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()

    @property
    def bundles(self) -> frozenset[str]:
        """The ids of the bundles whose copies are needed."""
        return frozenset(version.bundle for version in (self.current, self.previous) if version is not None)


def state_file(store: Path) -> Path:
    """Return where a station writes down what is installed."""
    return store / NAME


def bundle_folder(store: Path, bundle: str) -> Path:
    """Return where the verified copy of the bundle with that id lies."""
    return store / FOLDER / bundle


def read_state(store: Path) -> State:
    """Return what is installed; an empty state where there is no file.

    Raises GateError where the file is damaged, and OSError where it cannot be read.
    """
    path = state_file(store)
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return State()
    try:
        if len(data) > _MAX_BYTES:
            raise BundleRefused(f"the file has more than {_MAX_BYTES} bytes")
        state = shape(State, read_json(data, NAME), "state")
        for bundle in state.bundles:  # they name folders
            if not re.fullmatch("[0-9a-f]{16}", bundle):
                raise BundleRefused("a bundle's id is not 16 hex digits", found=repr(bundle))
    except BundleRefused as error:
        raise GateError(
            f"the station's record {path} is damaged, so what shall run is unknown",
            expected="the file as `station install` wrote it",
            found=error.message + (f" ({error.found})" if error.found else ""),
            fix="Move the file away and install the bundle again; its copy in the station's folder is used if whole",
        ) from error
    return state


def installed(store: Path) -> Version:
    """Return the version that runs here; raises UsageError where none is installed, GateError as ``read_state``."""
    current = read_state(store).current
    if current is None:
        raise UsageError(
            "no bundle is installed at this station",
            expected="one that was installed, or a bundle's folder",
            found=f"none in {store}",
            fix="Install one: station install BUNDLE",
        )
    return current


def change_state(store: Path, change: Callable[[State], State]) -> State:
    """Replace the state by what ``change`` makes of it, and return that once it is on disk.

    Raises as ``read_state`` and ``change`` do, OSError where it cannot be written, and UsageError where another
    process holds the lock. Nothing has changed then, unless the disk failed in its last step, flushing the folder.
    """
    make_folder(store)
    path = state_file(store)
    with locked(store / "state.lock", "another process changes what is installed at this station", _MOMENT_S):
        for left in path.parent.glob(f".{NAME}.*.partial"):  # by a process that was stopped
            left.unlink()
        state = change(read_state(store))
        write_atomic(path, canonical_bytes(state))
    return state


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
