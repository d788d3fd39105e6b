"""Run folders: every stage writes one folder named by the hash of all its inputs, atomically, and is reused."""

import ast
import hashlib
import importlib.util
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from export.runtime import files
from export.runtime.errors import UsageError

RECORD = "stage.json"


@dataclass(frozen=True, slots=True)
class Stage:
    """A complete stage: its folder, the hash of its inputs, that of its files, the seconds it took when it ran."""

    name: str
    path: Path
    digest: str
    result: str
    seconds: float
    reused: bool


def sha256(data: bytes) -> str:
    """Hex digest of `data`."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """Hash of a JSON value, independent of the order of keys."""
    return sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode())


def fsync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, fsync, rename: a reader sees the old file or the whole new one."""
    files.write_atomic(path, data)
    fsync_folder(path.parent)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write a NumPy array atomically; numpy's own writer hides why it could not write."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _own_imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.split(".")[0] in {"factory", "export"})


@cache
def code_digest(module: str) -> str:
    """Hash of a module's source and of every module of this project that it imports, directly or not."""
    sources: dict[str, str] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        if name in sources:
            continue
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # `from module import name` where name is no module
            continue
        if spec is None or spec.origin is None:
            continue
        sources[name] = Path(spec.origin).read_text(encoding="utf-8")
        queue += _own_imports(sources[name])
    return digest(sources)


def _hash_files(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in files}


def _key(name: str, inputs: Mapping[str, Any], code: Callable[..., Any]) -> str:
    return digest({"stage": name, "code": code_digest(code.__module__), **inputs})


def _changed(folder: Path) -> UsageError:
    return UsageError(f"{folder} was changed after it was complete", fix="delete that folder and run again")


class Workspace:
    """The runs of one line: `<runs>/<line>/<stage>-<hash>/`, with work in progress under `partial/`."""

    def __init__(self, runs: Path, line: str, say: Callable[[str], None]) -> None:
        self.root = runs / line
        self.stages: list[Stage] = []
        self.anew: set[str] = set()  # names of stages whose earlier results are not wanted
        self._say = say

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this line alone.

        Raises:
            UsageError: if another process works on this line in the same runs folder.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(
                f"another run of line {self.root.name!r} is at work in {self.root.parent}",
                fix="wait for it to end, or give this run another folder with --runs",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def stage(
        self, name: str, inputs: Mapping[str, Any], run: Callable[[Path], None], code: Callable[..., Any]
    ) -> Stage:
        """Return the stage of these inputs, run first unless a complete folder exists. Asking again says nothing.

        Args:
            name: of the stage.
            inputs: JSON values that, with the code of the stage, determine its result.
            run: writes the result into the folder it is given. The folder outlives a kill: `run` finds there what
                an earlier, unfinished attempt on the same inputs left.
            code: the function of the stage; the source of its module and of all it imports is part of the hash.
        """
        key = _key(name, inputs, code)
        final = self._folder(name, key)
        known = any(key == other.digest for other in self.stages)
        if name in self.anew:
            shutil.rmtree(final, ignore_errors=True)
            shutil.rmtree(self.root / "partial" / final.name, ignore_errors=True)
        if final.exists():
            record = self._verified(final, key)
            stage = Stage(name, final, key, digest(record["files"]), record["seconds"], reused=True)
            if not known:
                self._say(f"{name}: complete, reused ({final.name})")
        else:
            stage = self._run(name, key, inputs, run, final)
        if not known:
            self.stages.append(stage)
        return stage

    def complete(self, name: str, code: Callable[..., Any]) -> list[dict[str, Any]]:
        """Inputs of every complete stage of that name that was run by the code as it is; `stage` reuses each.

        Raises:
            UsageError: if the record of one cannot be read.
        """
        found: list[dict[str, Any]] = []
        for path in sorted(self.root.glob(f"{name}-*/{RECORD}")):
            try:
                inputs = dict(read_json(path)["inputs"])
            except (OSError, ValueError, KeyError, TypeError):
                raise _changed(path.parent) from None
            if path.parent == self._folder(name, _key(name, inputs, code)):
                found.append(inputs)
        return found

    def _folder(self, name: str, key: str) -> Path:
        return self.root / f"{name}-{key[:12]}"

    def _run(self, name: str, key: str, inputs: Mapping[str, Any], run: Callable[[Path], None], final: Path) -> Stage:
        partial = self.root / "partial" / final.name
        self._say(f"{name}: {'resuming' if partial.exists() else 'running'} ({final.name})")
        partial.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        run(partial)
        for leftover in partial.rglob(".*.partial"):  # of a write that a kill cut short
            leftover.unlink()
        seconds = round(time.monotonic() - start, 3)
        record = {
            "name": name,
            "digest": key,
            "inputs": dict(inputs),
            "seconds": seconds,
            "files": _hash_files(partial),
        }
        write_json(partial / RECORD, record)
        for path in partial.rglob("*"):
            fsync_folder(path)
        partial.rename(final)
        fsync_folder(self.root)
        return Stage(name, final, key, digest(record["files"]), seconds, reused=False)

    def _verified(self, folder: Path, key: str) -> dict[str, Any]:
        try:
            record: dict[str, Any] = read_json(folder / RECORD)
            intact = record["digest"] == key and record["files"] == _hash_files(folder)
        except (OSError, ValueError, KeyError):
            intact = False
        if not intact:
            raise _changed(folder)
        return record
