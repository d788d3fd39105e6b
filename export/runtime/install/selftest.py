"""A bundle tried on this very device before it may run here, in a process of its own.

A network that crashes, hangs or takes all memory ends that process, and not the one that inspects parts.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.bench import latency_limit_ms
from export.runtime.engines import Runner
from export.runtime.errors import EnvironmentLacks, FactoryError, GateError, UsageError
from export.runtime.golden import read_golden
from export.runtime.install.copies import verify_copy
from export.runtime.keys import key_id
from export.runtime.manifest import JsonObject, Runtime
from export.runtime.memory import peak_mb
from export.runtime.station import Station, open_in
from export.runtime.timing import CV_LIMIT, Effort, Summary, Variant, random_frames, time_variants
from export.runtime.trust import VerifiedBundle

EFFORT: Final = Effort(rounds=3, seconds=0.5, runs=20, warm_up_s=0.3)
LONGEST_S: Final = 900.0  # a TensorRT engine that compiles its kernels on a small device takes minutes
_KINDS: Final = {kind.exit_code: kind for kind in (UsageError, GateError, EnvironmentLacks)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """What was found: by how much the golden pictures' scores deviated at most, the latency of one frame, the memory.

    Latency is in ms, back to back with transfers; ``cv`` is the coefficient of variation of its runs, ``best_ms`` the
    median of the quickest turn, ``budget_ms`` the limit of the median that the bundle names, if any. ``memory_mb`` is
    the peak of a process that runs the bundle, ``memory_available_mb`` what was free for it, both in 10^6 bytes and
    None where the system does not tell.
    """

    runtime: Runtime
    provider: str
    golden_pictures: int
    golden_deviation: float
    golden_tolerance: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    best_ms: float
    cv: float
    runs: int
    budget_ms: float | None
    memory_mb: float | None
    memory_available_mb: float | None
    seconds: float

    @property
    def misses_budget(self) -> bool:
        """Whether even the quickest turn is above the budget: beside a version at work turns are slowed by chance."""
        return self.budget_ms is not None and self.best_ms > self.budget_ms

    @property
    def noisy(self) -> bool:
        """Whether the machine was busy with something else."""
        return self.cv > CV_LIMIT


def in_own_process(
    store: Path, bundle: str, trusted: Mapping[str, Ed25519PublicKey], runtime: Runtime | None = None
) -> JsonObject:
    """Return the figures of a ``SelfTest`` of the store's copy of the bundle with that id.

    Raises what ``try_bundle`` and ``judge`` raise, and GateError where the process died or took longer than LONGEST_S.
    """
    asked = {
        "store": str(store.absolute()),
        "bundle": bundle,
        "keys": [key.public_bytes_raw().hex() for key in trusted.values()],
        "runtime": runtime,
    }
    # Modules are sought where this process finds them, and never in the working folder, which may be a stranger's.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-P", "-m", "export.runtime.install.selftest"]
    try:
        done = subprocess.run(
            command, input=json.dumps(asked).encode(), stdout=subprocess.PIPE, env=environment, timeout=LONGEST_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise _died(f"none after {LONGEST_S:g} s") from None
    if done.returncode:
        raise _died(_spoken(done.returncode))
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "exit_code" in answer:
        raise _KINDS[answer.pop("exit_code")](**answer)
    return answer


def try_bundle(
    store: Path, bundle: str, trusted: Mapping[str, Ed25519PublicKey], runtime: Runtime | None = None
) -> SelfTest:
    """Return what the store's copy of a bundle does in this process; a miss that was measured unsteadily is repeated.

    Raises as ``Station.load`` does.
    """
    start, available = time.monotonic(), available_mb()
    verified = verify_copy(store, bundle, trusted)
    station = Station.of(verified, runtime=runtime, store=store)

    def measured() -> SelfTest:
        timed, best = _timed(verified, station.runtime, store)
        return SelfTest(
            runtime=station.runtime,
            provider=timed.provider,
            golden_pictures=len(read_golden(verified.manifest, verified.contents, station.variant.golden)),
            golden_deviation=station.golden_deviation,
            golden_tolerance=station.variant.golden.tolerance,
            p50_ms=timed.p50_ms,
            p95_ms=timed.p95_ms,
            p99_ms=timed.p99_ms,
            best_ms=best,
            cv=timed.cv,
            runs=timed.runs,
            budget_ms=latency_limit_ms(verified.manifest),
            memory_mb=peak_mb(),
            memory_available_mb=available,
            seconds=round(time.monotonic() - start, 2),
        )

    found = measured()
    return measured() if found.misses_budget and found.noisy else found


def judge(found: SelfTest) -> None:
    """Raise GateError unless the bundle keeps its latency budget, and its process fits into the memory that was free.

    What runs keeps its memory until the new version has taken over, so the two must fit beside each other.
    """
    if found.misses_budget:
        raise GateError(
            "the bundle is slower on this device than it may be",
            expected=f"a median of at most {found.budget_ms:g} ms",
            found=f"{found.best_ms:.3f} ms in the quickest turn"
            + (", measured twice, unsteadily" if found.noisy else ""),
            fix="End what else runs here and try again; else search again with this device as the budget's",
        )
    needed, free = found.memory_mb, found.memory_available_mb
    if needed is not None and free is not None and needed > free:
        raise GateError(
            "the bundle needs more memory than is free on this device",
            expected=f"at most {free:.0f} MB",
            found=f"{needed:.0f} MB at its peak",
            fix="End what else runs here and try again",
        )


def available_mb(meminfo: Path = Path("/proc/meminfo")) -> float | None:
    """Return the memory in 10^6 bytes that may be taken without swapping; None where the system does not tell."""
    if not meminfo.exists():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024 / 1e6


def _timed(verified: VerifiedBundle, runtime: Runtime, store: Path) -> tuple[Summary, float]:
    def opened() -> Runner:
        return open_in(verified, runtime, store).runner

    taken = verified.manifest.input
    frames = random_frames((taken.height, taken.width, taken.channels))
    (latency,) = time_variants([Variant(opened, frames)], EFFORT)
    return latency.summary, min(latency.turn_medians_ms)


def _died(found: str) -> GateError:
    return GateError(
        "the process of the self-test came to no result",
        expected="figures",
        found=found,
        fix="Its last words stand above; the bundle cannot run on this device",
    )


def _spoken(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"an end by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _main(asked: dict[str, Any]) -> None:
    with suppress(OSError):  # where memory runs out, Linux shall end this process and not the one that inspects
        Path("/proc/self/oom_score_adj").write_text("1000")
    public = [Ed25519PublicKey.from_public_bytes(bytes.fromhex(text)) for text in asked["keys"]]
    try:
        found = try_bundle(
            Path(asked["store"]), asked["bundle"], {key_id(key): key for key in public}, asked["runtime"]
        )
        judge(found)
        answer = asdict(found)
    except FactoryError as error:
        parts = {name: getattr(error, name) for name in ("message", "expected", "found", "fix")}
        answer = {"exit_code": error.exit_code, **parts}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    try:
        _main(json.loads(sys.stdin.buffer.read()))
    except (KeyboardInterrupt, BrokenPipeError):  # whoever asked was stopped, and says so itself if it can
        os._exit(130)
