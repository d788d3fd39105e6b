"""Install and rollback stopped, or failed, at every call that changes files, with what a power failure loses.

python -m tests.benchmarks power
"""

import errno
import os
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from export.build.pack import pack
from export.runtime.install.install import install, rollback
from export.runtime.install.selftest import in_own_process
from export.runtime.keys import load_trusted, new_key, public_path
from tests.export.runtime.conftest import draft, files_of, network
from tests.power import Keys, Stage, in_this_process, scenes
from tests.syscalls import LOSSES, Call, Fault, unavailable

FAULTS = ((errno.ENOSPC, True), (errno.EROFS, True), (errno.EIO, False))
LARGE = 40_000_000


def _bundle(folder: Path, month: int, key: Path, size: int = 0) -> Path:
    model, asked = network(), draft(created=f"2025-{month:02}-01T12:00:00Z")
    files = files_of(model, asked)
    if size:
        files["report/report.html"] = ("report", os.urandom(size))
    return pack(folder / f"bundle-{month}", draft=asked, files=files, key=key, signer_name="bench")


def _short(call: Call, store: str) -> str:
    return f"{call.name} {call.path.partition(store)[2] or '/'}"


def _stops(stage: Stage) -> int:
    print(
        f"{len(stage.calls)} calls: "
        + ", ".join(f"{n} {name}" for name, n in Counter(c.name for c in stage.calls).most_common())
    )
    print(f"version found after a stop before the call, power failing: {', '.join(LOSSES)}")
    for number, call in enumerate(stage.calls):
        found = [stage.stopped(number, loss) for loss in LOSSES]
        print(f"  {number:3} {' '.join(found)}  {_short(call, '/store')}")
    return len(LOSSES) * len(stage.calls)


def _faults(stage: Stage) -> int:
    for error, on in FAULTS:
        ended = Counter(stage.failed(Fault(number, error, on)) for number in range(len(stage.calls)))
        told = ", ".join(
            f"{n} x exit code {code} with the {found} version" for (code, found), n in sorted(ended.items())
        )
        print(f"  {errno.errorcode[error]} {'from each call on' if on else 'at each call'}: {told}")
    return len(FAULTS) * len(stage.calls)


def _speed(folder: Path, keys: Keys, bundles: tuple[Path, Path], what: str) -> None:
    store = folder / "speed" / what
    for bundle in bundles:
        start = time.perf_counter()
        version = install(bundle, keys, store, allow_older=False, say=lambda text: None)
        took = time.perf_counter() - start
    start = time.perf_counter()
    install(bundles[0], keys, store, allow_older=True, say=lambda text: None, test=in_this_process)
    quick = time.perf_counter() - start
    back = []
    for _ in range(21):
        start = time.perf_counter()
        rollback(store, keys)
        back.append((time.perf_counter() - start) * 1e3)
    start = time.perf_counter()
    in_own_process(store, version.bundle, keys)
    print(
        f"{what}: install {took:.2f} s, of which the self-test {time.perf_counter() - start:.2f} s; of a copy that is "
        f"there, without it, {quick:.3f} s; rollback {statistics.median(back):.1f} ms (at most {max(back):.1f})"
    )


def main() -> None:
    """Stop at every call of four commands, four ways of losing data each; fail every call; time the commands."""
    reason = unavailable()
    with tempfile.TemporaryDirectory() as name:
        folder, key = Path(name), Path(name) / "key"
        new_key(key)
        keys = load_trusted([public_path(key)])
        a, b, c = (_bundle(folder, month, key) for month in (1, 2, 3))
        _speed(folder, keys, (a, b), "tiny bundle")
        large = _bundle(folder, 4, key, LARGE), _bundle(folder, 5, key, LARGE)
        _speed(folder, keys, large, f"bundle of {LARGE // 1_000_000} MB")
        if reason is not None:
            print(f"nothing is stopped: {reason}")
            return
        stops = faults = 0
        for number, scene in enumerate(scenes((a, b, c), keys)):
            print(f"\n{scene.name}")
            (folder / str(number)).mkdir()
            stage = Stage(scene, folder / str(number))
            stops += _stops(stage)
            faults += _faults(stage)
        print(f"\n{stops} stops and {faults} failed calls: a whole version each time, the same files after a repeat")
