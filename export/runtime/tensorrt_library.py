"""TensorRT and TensorRT-RTX, imported where they are needed and heard in their own words.

The two offer the same classes; a member that only one of them has is asked for before it is used.
"""

import importlib
import importlib.util
import struct
from typing import Any, Final, Literal, TypeAlias

from export.runtime.errors import EnvironmentLacks
from export.runtime.manifest import Runtime

EngineRuntime: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]

NAMES: Final = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
# What is imported, in this order: the plug-in's wheel carries the libraries of RTX, and its import preloads them.
MODULES: Final = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("onnxruntime_ep_nv_tensorrt_rtx", "tensorrt_rtx_bindings"),
}
EXTRAS: Final = {"tensorrt": "trt", "tensorrt-rtx": "rtx"}
_MAGIC: Final = b"vtrt"


def rebuild_command(runtime: Runtime) -> str:
    """Return the command that makes a station's own engine, whatever the bundle's own runtime is."""
    return f"station rebuild-engine BUNDLE --runtime {runtime}"


def load(runtime: EngineRuntime) -> Any:
    """Return the bindings of a runtime.

    Raises EnvironmentLacks naming the extra where they are not installed, or their libraries cannot be loaded.
    """
    name = NAMES[runtime]
    fix = f"Install the extra {EXTRAS[runtime]!r}: pip install 'edge-model-factory[{EXTRAS[runtime]}]'"
    for module in MODULES[runtime]:
        if importlib.util.find_spec(module) is None:
            raise EnvironmentLacks(f"{name} is not installed", expected=f"the module {module}", found="none", fix=fix)
    try:
        return [importlib.import_module(module) for module in MODULES[runtime]][-1]
    except (ImportError, OSError) as error:
        raise EnvironmentLacks(f"{name} cannot be loaded", found=str(error), fix=fix) from error


class Words:
    """A logger for the bindings, and what it was told of errors since it was last read."""

    def __init__(self, trt: Any) -> None:
        severity = trt.ILogger.Severity
        told: list[str] = []

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, level: Any, message: str) -> None:
                if level in (severity.ERROR, severity.INTERNAL_ERROR):
                    told.append(message)

        self.logger = Logger()
        self._told = told

    def take(self) -> str:
        """Return the errors told since the last call, in their order."""
        text = "; ".join(self._told) or "no reason given"
        self._told.clear()
        return text


def header_version(plan: bytes) -> str | None:
    """Return the library version noted in the header of a TensorRT-RTX plan; None where the header is another.

    The layout is observed and not documented: a hint for a message, never a proof.
    """
    if plan[:4] != _MAGIC or len(plan) < 28:
        return None
    return ".".join(map(str, struct.unpack_from("4B", plan, 24)))
