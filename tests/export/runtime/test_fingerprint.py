import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from export.runtime import fingerprint as module
from export.runtime.errors import EnvironmentLacks
from export.runtime.fingerprint import UNKNOWN, fingerprint


def test_this_machine_is_told_as_the_system_tells_it() -> None:
    found = fingerprint("onnxruntime-cpu")
    assert found.identity["runtime"] == f"onnxruntime {version('onnxruntime')}"
    assert found.identity["architecture"] == platform.machine()
    assert found.identity["cores"] == len(os.sched_getaffinity(0))
    assert str(found.identity["processor"]) in Path("/proc/cpuinfo").read_text()
    assert found.circumstances["python"] == platform.python_version()
    assert isinstance(found.circumstances["load"], list) and len(found.circumstances["load"]) == 3
    assert all(value not in (None, "") for value in [*found.identity.values(), *found.circumstances.values()])
    json.dumps([found.identity, found.circumstances], allow_nan=False)


def test_the_identity_stays_and_holds_nothing_of_the_moment() -> None:
    first, second = fingerprint("onnxruntime-cpu"), fingerprint("onnxruntime-cpu")
    assert first.identity == second.identity
    assert not {"time", "load", "governor", "clock_mhz", "kernel"} & set(first.identity)


def test_clocks_and_governor_come_from_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (
        ("cpuinfo_min_freq", "800000"), ("cpuinfo_max_freq", "4700000"), ("scaling_cur_freq", "2600123"),
        ("scaling_governor", "powersave"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(module, "_CPUFREQ", tmp_path)
    found = fingerprint("onnxruntime-cpu")
    assert (found.identity["clock_min_mhz"], found.identity["clock_max_mhz"]) == (800, 4700)
    assert (found.circumstances["clock_mhz"], found.circumstances["governor"]) == (2600, "powersave")
    monkeypatch.setattr(module, "_CPUFREQ", tmp_path / "none")
    found = fingerprint("onnxruntime-cpu")
    assert (found.identity["clock_max_mhz"], found.circumstances["governor"]) == (UNKNOWN, UNKNOWN)


DRIVER = """#!/bin/sh
[ "$1" = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.sm,temperature.gpu,pstate" ] || exit 9
[ "$2" = "--format=csv,noheader,nounits" ] || exit 9
echo "NVIDIA RTX A2000, 570.86.10, 6138, 2100, 210, 41, P8"
"""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The packages that this machine is said to have."""
    packages: dict[str, str] = {}

    def told(name: str) -> str:
        if name not in packages:
            raise PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(module, "version", told)
    return packages


def test_a_gpu_runtime_names_gpu_and_driver(
    installed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed["tensorrt"] = "10.13.3.9"
    (tmp_path / "nvidia-smi").write_text(DRIVER)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = fingerprint("tensorrt")
    assert found.identity["runtime"] == "tensorrt 10.13.3.9"
    assert found.identity["gpu"] == {
        "name": "NVIDIA RTX A2000", "driver": "570.86.10", "memory_mib": "6138", "clock_max_mhz": "2100",
    }  # fmt: skip
    assert found.circumstances["gpu"] == {"clock_mhz": "210", "temperature_c": "41", "state": "P8"}


@pytest.mark.parametrize("script", [None, "#!/bin/sh\nexit 9\n", "#!/bin/sh\necho No devices were found\n"])
def test_a_gpu_that_the_driver_does_not_tell_of_is_unknown(
    script: str | None, installed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed["onnxruntime-gpu"] = "1.31.1"
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(script)
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) if script is None else f"{tmp_path}:{os.environ['PATH']}")
    gpu: Any = fingerprint("onnxruntime-cuda").identity["gpu"]
    assert set(gpu.values()) == {UNKNOWN}


def test_a_missing_runtime_is_an_error_that_names_the_package(installed: dict[str, str]) -> None:
    with pytest.raises(EnvironmentLacks, match=r"tensorrt-rtx is not installed here.*pip install tensorrt-rtx-cu13"):
        fingerprint("tensorrt-rtx")
    with pytest.raises(EnvironmentLacks, match=r"pip install onnxruntime$"):
        fingerprint("onnxruntime-cpu")
    with pytest.raises(EnvironmentLacks, match=r"pip install onnxruntime-gpu$"):
        fingerprint("onnxruntime-cuda")


def test_both_packages_of_onnxruntime_are_refused(installed: dict[str, str]) -> None:
    installed.update({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.30.0"})
    with pytest.raises(EnvironmentLacks, match=r"left to chance.*onnxruntime 1\.31\.1 and onnxruntime-gpu 1\.30"):
        fingerprint("onnxruntime-cpu")


def test_it_imports_no_runtime(python: Any) -> None:
    code = "import sys; from export.runtime.fingerprint import fingerprint; fingerprint('onnxruntime-cpu')"
    done = python(f"{code}; print({{'onnxruntime', 'torch'}} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done
