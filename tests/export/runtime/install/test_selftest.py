import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.errors import EnvironmentLacks, GateError
from export.runtime.install import selftest
from export.runtime.install.copies import put_copy
from export.runtime.install.selftest import SelfTest, available_mb, in_own_process, judge, try_bundle
from export.runtime.manifest import bundle_id
from export.runtime.timing import Effort, Latency
from export.runtime.trust import verify_bundle

Keys = Mapping[str, Ed25519PublicKey]
LINUX = sys.platform == "linux"


@pytest.fixture
def copied(tmp_path: Path, keys: Keys, made: Callable[..., Path]) -> Callable[..., tuple[Path, str]]:
    """A bundle's copy in a store: the store, and the bundle's id."""

    def copy(limit: float | None, **changes: Any) -> tuple[Path, str]:
        budget: dict[str, object] = {} if limit is None else {"latency_ms": {"limit": limit}}
        verified = put_copy(tmp_path / "store", verify_bundle(made("a", 1, budget=budget, **changes), keys), keys)
        return tmp_path / "store", bundle_id(verified.manifest_bytes)

    return copy


Copied = Callable[..., tuple[Path, str]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "EFFORT", Effort(rounds=1, seconds=0.0, runs=5, warm_up_s=0.0))


def test_a_process_of_its_own_measures_the_copy(
    copied: Copied, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stick").mkdir()
    for name in ("numpy.py", "export.py", "sitecustomize.py"):  # a stranger's modules where the command was typed
        (tmp_path / "stick" / name).write_text("raise SystemExit('a stranger ran')")
    monkeypatch.chdir(tmp_path / "stick")
    found = in_own_process(*copied(50.0), keys)
    assert set(found) == set(SelfTest.__dataclass_fields__)
    told = SelfTest(**found)  # type: ignore[arg-type]
    assert (told.runtime, told.provider, told.golden_pictures) == ("onnxruntime-cpu", "CPUExecutionProvider", 3)
    assert 0 <= told.golden_deviation <= told.golden_tolerance == 1e-4
    assert 0 < told.p50_ms <= told.p95_ms <= told.p99_ms and told.p50_ms <= told.budget_ms == 50.0
    assert told.runs >= selftest.EFFORT.runs * selftest.EFFORT.rounds
    if LINUX:
        assert told.memory_mb is not None and told.memory_available_mb is not None
        assert 20 < told.memory_mb < told.memory_available_mb


def test_what_the_process_refuses_is_told_here(copied: Copied, keys: Keys) -> None:
    store, name = copied(50.0)
    with pytest.raises(GateError, match="a key not trusted here") as refused:
        in_own_process(store, name, {})
    assert refused.value.exit_code == 1 and refused.value.fix is not None
    with pytest.raises(EnvironmentLacks, match="found no ") as lacking:
        in_own_process(store, name, keys, "tensorrt")
    assert lacking.value.exit_code == 3


def test_a_bundle_that_scores_otherwise_here_is_refused(
    make_bundle: Callable[..., Path], keys: Keys, tiny: SimpleNamespace, tmp_path: Path
) -> None:
    other = tiny.scored(tiny.network(bias=(0.0, -0.4, -0.7)), tiny.draft())
    verified = put_copy(tmp_path / "store", verify_bundle(make_bundle(golden=other), keys), keys)
    with pytest.raises(GateError, match=r"the golden frame .* is off by"):
        in_own_process(tmp_path / "store", bundle_id(verified.manifest_bytes), keys)


@pytest.mark.skipif(os.name != "posix", reason="a script stands for the process")
@pytest.mark.parametrize(
    ("script", "told"),
    [("kill -SEGV $$", "an end by SIGSEGV"), ("kill -KILL $$", "an end by SIGKILL"), ("exit 7", "exit code 7")],
)
def test_a_process_that_dies_is_a_refusal(
    script: str, told: str, copied: Copied, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, name = copied(50.0)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(GateError, match=f"came to no result: expected figures, found {told}"):
        in_own_process(store, name, keys)


@pytest.mark.skipif(os.name != "posix", reason="a script stands for the process")
def test_a_process_that_hangs_is_a_refusal(
    copied: Copied, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, name = copied(50.0)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(selftest, "LONGEST_S", 0.2)
    with pytest.raises(GateError, match=r"found none after 0\.2 s"):
        in_own_process(store, name, keys)


def timed(p50: float, *, noisy: bool, best: float | None = None) -> Any:
    found = Latency((p50,) * 9, provider="CPUExecutionProvider").summary
    return replace(found, cv=0.9 if noisy else 0.05, noisy=noisy), p50 if best is None else best


@pytest.mark.parametrize(
    ("measured", "taken", "kept"),
    [
        ([timed(0.5, noisy=True)], 1, True),
        ([timed(2.0, noisy=True, best=0.9)], 1, True),  # beside a version at work
        ([timed(2.0, noisy=True), timed(0.5, noisy=True)], 2, True),
        ([timed(2.0, noisy=True), timed(1.5, noisy=True)], 2, False),
        ([timed(2.0, noisy=False)], 1, False),
    ],
)
def test_a_miss_measured_unsteadily_is_measured_once_more(
    measured: list[Any], taken: int, kept: bool, copied: Copied, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: Iterator[Any] = iter(measured)
    monkeypatch.setattr(selftest, "_timed", lambda verified, runtime, store: next(turns))
    found = try_bundle(*copied(1.0), keys)
    assert next(turns, None) is None and len(measured) == taken
    assert found.misses_budget is not kept
    if kept:
        judge(found)
    else:
        with pytest.raises(GateError, match=r"slower on this device.*a median of at most 1 ms, found [12]\.\d00 ms"):
            judge(found)


@pytest.mark.usefixtures("quick")
def test_memory_that_is_not_there_is_a_refusal(copied: Copied, keys: Keys, tmp_path: Path) -> None:
    found = try_bundle(*copied(None), keys)
    assert found.budget_ms is None and not found.misses_budget
    judge(replace(found, memory_mb=100.0, memory_available_mb=100.0))
    judge(replace(found, memory_mb=None, memory_available_mb=100.0))
    with pytest.raises(GateError, match=r"needs more memory.*at most 99 MB, found 100 MB at its peak"):
        judge(replace(found, memory_mb=100.0, memory_available_mb=99.0))
    (tmp_path / "meminfo").write_text("MemTotal:       16 kB\nMemAvailable:   1000000 kB\n")
    assert available_mb(tmp_path / "meminfo") == 1024.0
    assert available_mb(tmp_path / "none") is None
    assert SelfTest(**asdict(found)) == found
