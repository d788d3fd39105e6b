"""What a machine is and how it is just now, as far as the latency of a network goes; no runtime is imported for it."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from export.runtime.errors import EnvironmentLacks
from export.runtime.manifest import JsonObject, Runtime

UNKNOWN: Final = "unknown"
_PACKAGES: Final[Mapping[Runtime, tuple[str, ...]]] = {
    "onnxruntime-cpu": ("onnxruntime", "onnxruntime-gpu"),
    "onnxruntime-cuda": ("onnxruntime-gpu", "onnxruntime"),
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
}
_VECTORS: Final = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_fp16", "amx_tile", "asimd", "asimddp", "sve")
_CPUFREQ: Final = Path("/sys/devices/system/cpu/cpu0/cpufreq")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """`identity` is what a latency depends on and outlasts a restart; `circumstances` are those of this moment.

    What cannot be found out is said to be "unknown".
    """

    identity: JsonObject
    circumstances: JsonObject


def fingerprint(runtime: Runtime) -> Fingerprint:
    """Look at this machine as one that computes with `runtime`.

    Raises EnvironmentLacks where the runtime is not installed, or both packages of ONNX Runtime are.
    """
    cpu = _cpuinfo()
    identity: JsonObject = {
        "processor": cpu.get("model name") or platform.processor() or platform.machine() or UNKNOWN,
        "architecture": platform.machine() or UNKNOWN,
        "vector": list(vector_units()),
        "cores": _cores(),
        "clock_min_mhz": _frequency("cpuinfo_min_freq"),
        "clock_max_mhz": _frequency("cpuinfo_max_freq"),
        "system": platform.system() or UNKNOWN,
        "runtime": _runtime_version(runtime),
    }
    circumstances: JsonObject = {
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "clock_mhz": _clock_now(cpu),
        "governor": _read(_CPUFREQ / "scaling_governor") or UNKNOWN,
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else UNKNOWN,
        "kernel": platform.release() or UNKNOWN,
        "python": platform.python_version(),
    }
    if runtime != "onnxruntime-cpu":
        own, now = _gpu()
        identity["gpu"] = own
        circumstances["gpu"] = now
    return Fingerprint(identity, circumstances)


def vector_units() -> tuple[str, ...]:
    """The vector instructions of this processor that matter here, as Linux calls them; empty where nobody says."""
    cpu = _cpuinfo()
    known = cpu.get("flags", cpu.get("Features", "")).split()
    return tuple(name for name in _VECTORS if name in known)


def _runtime_version(runtime: Runtime) -> str:
    found = []
    for package in _PACKAGES[runtime]:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    if not found:
        raise EnvironmentLacks(
            f"the runtime {runtime} is not installed here",
            expected=f"the package {' or '.join(_PACKAGES[runtime])}",
            found="none",
            fix=f"Install it, or measure where it is: pip install {_PACKAGES[runtime][0]}",
        )
    if len(found) > 1 and runtime.startswith("onnxruntime"):
        raise EnvironmentLacks(
            "which ONNX Runtime would be measured here is left to chance: two packages fill one folder",
            expected="one of them",
            found=" and ".join(found),
            fix=f"pip uninstall {' '.join(_PACKAGES[runtime])}, then pip install {_PACKAGES[runtime][0]}",
        )
    return found[0]


def _cpuinfo() -> dict[str, str]:
    """The first processor's block of /proc/cpuinfo; nothing where there is no such file."""
    block = _read(Path("/proc/cpuinfo")).partition("\n\n")[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _cores() -> int | str:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or UNKNOWN


def _frequency(name: str) -> int | str:
    text = _read(_CPUFREQ / name)
    return round(int(text) / 1000) if text.isdecimal() else UNKNOWN


def _clock_now(cpu: Mapping[str, str]) -> int | str:
    current = _frequency("scaling_cur_freq")
    if current == UNKNOWN and "cpu MHz" in cpu:
        return round(float(cpu["cpu MHz"]))
    return current


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _gpu() -> tuple[JsonObject, JsonObject]:
    """What the driver says of the GPUs: what they are, and their clocks and warmth now. Several are joined by ' + '."""
    own = {"name": "name", "driver": "driver_version", "memory_mib": "memory.total", "clock_max_mhz": "clocks.max.sm"}
    now = {"clock_mhz": "clocks.sm", "temperature_c": "temperature.gpu", "state": "pstate"}
    columns = _ask_driver([*own.values(), *now.values()])
    told = dict(zip([*own, *now], columns, strict=True))
    return {name: told[name] for name in own}, {name: told[name] for name in now}


def _ask_driver(questions: list[str]) -> list[str]:
    tool = shutil.which("nvidia-smi")
    answers: list[list[str]] = []
    if tool is not None:
        command = [tool, f"--query-gpu={','.join(questions)}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
            answers = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
        except (OSError, subprocess.SubprocessError):
            answers = []
    rows = [row for row in answers if len(row) == len(questions)]
    if not rows:
        return [UNKNOWN] * len(questions)
    return [" + ".join(dict.fromkeys(cells)) for cells in zip(*rows, strict=True)]
