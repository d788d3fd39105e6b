"""What must hold wherever install and rollback are stopped: shared by the test and the benchmark."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.errors import FactoryError
from export.runtime.install.install import install, rollback
from export.runtime.install.installed import load_installed
from export.runtime.install.state import bundle_folder, read_state
from export.runtime.manifest import JsonObject, Runtime
from export.runtime.station import Station
from tests.syscalls import Fault, Loss, run

T = TypeVar("T")
Keys = Mapping[str, Ed25519PublicKey]


def in_this_process(store: Path, bundle: str, trusted: Keys, runtime: Runtime | None) -> JsonObject:
    """Score the golden pictures, and no more: a self-test of milliseconds."""
    Station.load(bundle_folder(store, bundle), trusted, runtime=runtime, store=store)
    return {}


@dataclass(frozen=True)
class Scene:
    """A command at a station where bundles were installed before, the last of them being what runs."""

    name: str
    before: tuple[Path, ...]
    bundle: Path | None  # to install; None: rollback
    keys: Keys

    def command(self, store: Path) -> int:
        """Give the command; the exit code of the command line."""
        try:
            if self.bundle is None:
                rollback(store, self.keys, "it failed on a frame")
            else:
                _install(self.bundle, self.keys, store)
        except FactoryError as error:
            return error.exit_code
        return 0

    def prepare(self, store: Path) -> None:
        """Make the station as it was before the command."""
        for bundle in self.before:
            _install(bundle, self.keys, store)


@dataclass
class Stage:
    """A scene's station before the command and after it, and as many copies to stop it in as are wanted."""

    scene: Scene
    folder: Path

    def __post_init__(self) -> None:
        self.start, self.end = self.folder / "start", self.folder / "end"
        self.scene.prepare(self.start)
        self.start.mkdir(exist_ok=True)
        shutil.copytree(self.start, self.end)
        assert self.scene.command(self.end) == 0
        self.old, self.new = running(self.start), running(self.end)
        assert self.old != self.new
        self.calls = self._in_copy(lambda store: run(lambda: self.scene.command(store), store)).calls

    def stopped(self, number: int, loss: Loss) -> str:
        """Stop before the n-th call, lose what a power failure may, check the station; "old" or "new" was found."""

        def check(store: Path) -> str:
            outcome = run(lambda: self.scene.command(store), store, stop_before=number)
            assert outcome.code is None and len(outcome.calls) == number + 1
            outcome.disk.lose(loss)
            return self.check(store)

        return self._in_copy(check)

    def failed(self, fault: Fault) -> tuple[int, str]:
        """Let calls fail, check the station; the command's exit code, and whether "old" or "new" was found."""

        def check(store: Path) -> tuple[int, str]:
            outcome = run(lambda: self.scene.command(store), store, fault=fault)
            assert outcome.code is not None
            return outcome.code, self.check(store)

        return self._in_copy(check)

    def check(self, store: Path) -> str:
        """Both versions load and score their golden pictures; the command goes through, and leaves what it should."""
        found = running(store)
        assert found in (self.old, self.new)
        state = read_state(store)
        for version in (state.current, state.previous):
            if version is not None:
                Station.load(bundle_folder(store, version.bundle), self.scene.keys)
        if found is not None:
            load_installed(store, self.scene.keys)
        if self.scene.bundle is not None or found == self.old:
            assert self.scene.command(store) == 0
        assert running(store) == self.new
        assert _tree(store) == _tree(self.end)
        return "new" if found == self.new else "old"

    def _in_copy(self, use: Callable[[Path], T]) -> T:
        store = self.folder / "store"
        shutil.copytree(self.start, store)
        try:
            return use(store)
        finally:
            shutil.rmtree(store)


def running(store: Path) -> str | None:
    """The id of the bundle that a station runs."""
    current = read_state(store).current
    return None if current is None else current.bundle


def scenes(bundles: tuple[Path, Path, Path], keys: Keys) -> list[Scene]:
    """The first install, one that removes the oldest copy, one of a copy that is there, and the way back."""
    a, b, c = bundles
    return [
        Scene("first install", (), a, keys),
        Scene("update", (a, b), c, keys),
        Scene("install of the previous", (a, b), a, keys),
        Scene("rollback", (a, b), None, keys),
    ]


def _install(bundle: Path, keys: Keys, store: Path) -> None:
    install(bundle, keys, store, allow_older=True, say=lambda text: None, test=in_this_process)


def _tree(store: Path) -> dict[str, bytes]:
    """Every file, but what says when."""
    files = {str(path.relative_to(store)): path for path in store.rglob("*")}
    return {name: path.read_bytes() if path.is_file() and name != "state.json" else b"" for name, path in files.items()}
