"""Loads spoiled bundles as a station does, and says what came of each; run in a process of its own.

python -m tests.judging FOLDER START STOP      prints one JSON line a bundle, the first of one that is whole
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from export.runtime.errors import FactoryError
from export.runtime.keys import key_id
from export.runtime.station import Station
from tests.mutants import KINDS, OUTSIDE, spoil, write_bundle
from tests.peak import peak_mb

SECONDS = 10
RUNTIMES = ("onnxruntime", "tensorrt", "tensorrt_rtx", "torch", "onnx")
WRITES = (
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate",
    "os.utime", "shutil.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "socket.",
)  # fmt: skip


class Reached(BaseException):
    """The bundle was trusted: a runtime was about to be imported for it."""


class Hung(BaseException):
    """It took longer than SECONDS."""


class Blocked:
    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in RUNTIMES:
            raise Reached(name)


class Watch:
    """Notes whatever is written, started or opened outside the bundle while it is on."""

    def __init__(self, sandbox: Path) -> None:
        self.on, self.seen, self.sandbox = False, list[str](), sandbox
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event.startswith(WRITES):
            self.seen.append(f"{event} {arguments}")
        if event == "open" and isinstance(arguments[0], str | bytes):
            path, flags = Path(os.fsdecode(arguments[0])), arguments[2] or 0
            inside = os.path.realpath(path.parent).startswith(str(self.sandbox / "bundle"))
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or (self.sandbox in path.parents and not inside):
                self.seen.append(f"open {path}")


def judge(watch: Watch, private: Ed25519PrivateKey) -> dict[str, Any]:
    """Load the bundle, and say what came of it."""
    public = private.public_key()
    watch.seen.clear()
    started = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    watch.on = True
    try:
        Station.load(watch.sandbox / "bundle", {key_id(public): public}, store=watch.sandbox / "store")
        outcome, said = "accepted", ""
    except FactoryError as error:
        outcome, said = "refused", str(error)
    except Reached as error:
        outcome, said = "accepted", f"imported {error}"
    except Hung:
        outcome, said = "hung", ""
    except BaseException as error:
        outcome, said = "crashed", repr(error)
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_REAL, 0)
    ms = 1000 * (time.perf_counter() - started)
    return {"outcome": outcome, "said": said, "ms": ms, "outside": list(watch.seen)}


def main(folder: str, start: str, stop: str) -> None:
    sys.meta_path.insert(0, Blocked())  # type: ignore[arg-type]
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    sandbox, whole = Path(folder).resolve() / "sandbox", Path(folder).resolve() / "whole"
    write_bundle(whole / "bundle", private)
    shutil.copytree(whole, sandbox)
    signal.signal(signal.SIGALRM, _stop)
    watch = Watch(sandbox)
    _say({"kind": "none", "seed": 0, **judge(watch, private)})
    kinds = list(KINDS)
    for number in range(int(start), int(stop)):
        kind, seed = kinds[number % len(kinds)], number // len(kinds)
        shutil.rmtree(sandbox / "bundle")
        shutil.copytree(whole / "bundle", sandbox / "bundle")
        spoil(kind, seed, sandbox / "bundle", private)
        _say({"kind": kind, "seed": seed, **judge(watch, private)})
        if _tree(sandbox / OUTSIDE) != _tree(whole / OUTSIDE):
            raise AssertionError(f"{kind} {seed}: what lies outside was changed")


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _stop(signum: int, frame: object) -> None:
    raise Hung


def _say(document: dict[str, Any]) -> None:
    print(json.dumps({**document, "peak_mb": peak_mb()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
