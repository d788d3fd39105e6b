"""What a manifest asks of this machine, and what of it is missing here."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Final

from export.runtime.errors import EnvironmentLacks, explain
from export.runtime.image import RESIZE_RULE
from export.runtime.manifest import Draft, Runtime

# What each runtime imports, and the package that brings it.
_NEEDS: Final[Mapping[Runtime, Mapping[str, str]]] = {
    "onnxruntime-cpu": {"onnxruntime": "onnxruntime"},
    "onnxruntime-cuda": {"onnxruntime": "onnxruntime-gpu"},
    "tensorrt": {"tensorrt": "edge-model-factory[trt]", "cuda.bindings": "edge-model-factory[trt]"},
    "tensorrt-rtx": {
        "onnxruntime_ep_nv_tensorrt_rtx": "edge-model-factory[rtx]",
        "tensorrt_rtx_bindings": "edge-model-factory[rtx]",
        "cuda.bindings": "edge-model-factory[rtx]",
    },
}
# The two packages fill the same folder: with both installed, which of them runs is left to chance.
_RIVALS: Final = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing this machine lacks, with what would mend it."""

    expected: str
    found: str
    fix: str

    def __str__(self) -> str:
        return explain("this station cannot run it", expected=self.expected, found=self.found, fix=self.fix)


@dataclass(frozen=True, slots=True)
class Installed:
    """The runtimes here: which of their modules are found, and the versions of the packages of onnxruntime."""

    modules: frozenset[str]
    packages: Mapping[str, str]


def installed() -> Installed:
    """Return the runtimes installed here, without importing any of them."""
    found = {}
    for package in _RIVALS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    wanted = {module for needs in _NEEDS.values() for module in needs}
    return Installed(frozenset(filter(_is_found, wanted)), found)


def _is_found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package it would be in
        return False


def problems(manifest: Draft, here: Installed, runtime: Runtime | None = None) -> list[Problem]:
    """Return everything that keeps a machine with these runtimes from running the bundle, in its own one or another."""
    found = []
    if manifest.input.resize != RESIZE_RULE:
        fix = "Update the station's software to the version the bundle was built with"
        found.append(Problem(f"the resize rule {RESIZE_RULE}", manifest.input.resize, fix))
    for module, package in _NEEDS[runtime or manifest.device.runtime].items():
        if module not in here.modules:
            found.append(
                Problem(f"the package {package}", f"no module {module}", f"Install it: pip install '{package}'")
            )
    if len(here.packages) > 1:
        both = " and ".join(f"{name} {number}" for name, number in here.packages.items())
        needed = _NEEDS[runtime or manifest.device.runtime].get("onnxruntime", "one of them")
        fix = f"pip uninstall {' '.join(_RIVALS)}, then pip install {needed}"
        found.append(Problem("one onnxruntime package", both, fix))
    return found


def require(manifest: Draft, runtime: Runtime | None = None) -> None:
    """Raise EnvironmentLacks with every problem, one a line, unless this machine can run the bundle."""
    lacking = problems(manifest, installed(), runtime)
    if lacking:
        raise EnvironmentLacks("\n".join(map(str, lacking)))
