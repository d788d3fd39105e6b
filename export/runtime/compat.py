"""What a manifest asks of this machine, and what of it is missing here."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Final

from export.runtime.errors import EnvironmentLacks, explain
from export.runtime.image import RESIZE_RULE
from export.runtime.manifest import Draft

# The two packages fill the same folder: with both installed, which of them runs is left to chance.
_PACKAGES: Final = {"onnxruntime-cpu": "onnxruntime", "onnxruntime-cuda": "onnxruntime-gpu"}


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
    """The runtimes here: whether the module onnxruntime is found, and the versions of its packages."""

    module: bool
    packages: Mapping[str, str]


def installed() -> Installed:
    """Return the runtimes installed here, without importing any of them."""
    found = {}
    for package in _PACKAGES.values():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return Installed(find_spec("onnxruntime") is not None, found)


def problems(manifest: Draft, here: Installed) -> list[Problem]:
    """Return everything that keeps a machine with these runtimes from running the bundle."""
    found = []
    if manifest.input.resize != RESIZE_RULE:
        fix = "Update the station's software to the version the bundle was built with"
        found.append(Problem(f"the resize rule {RESIZE_RULE}", manifest.input.resize, fix))
    package = _PACKAGES.get(manifest.device.runtime)
    if package is None:
        fix = "This station verifies TensorRT engines but cannot run them yet; build for onnxruntime"
        found.append(Problem(f"a runtime among {', '.join(_PACKAGES)}", manifest.device.runtime, fix))
    elif not here.module:
        found.append(Problem(f"the package {package}", "no onnxruntime", f"Install it: pip install {package}"))
    if len(here.packages) > 1:
        both = " and ".join(f"{name} {number}" for name, number in here.packages.items())
        fix = "Uninstall both, then install the one the bundle needs"
        found.append(Problem("one onnxruntime package", both, fix))
    return found


def require(manifest: Draft) -> None:
    """Raise EnvironmentLacks with every problem, one a line, unless this machine can run the bundle."""
    lacking = problems(manifest, installed())
    if lacking:
        raise EnvironmentLacks("\n".join(map(str, lacking)))
