"""One NVIDIA GPU by cuda-bindings: what it is, memory on it and pinned beside it, a stream, a captured graph.

Every resource is freed when nothing refers to it any longer.
"""

import ctypes
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from export.runtime.errors import EnvironmentLacks

_DEVICE: Final = 0
_NO_GPU: Final = ("cudaErrorInsufficientDriver", "cudaErrorNoDevice")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """The GPU at hand: its name, its compute capability such as "8.6", the driver's newest CUDA such as "13.0"."""

    name: str
    capability: str
    driver: str


def _runtime() -> Any:  # cuda-bindings ships no types for what is used here
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EnvironmentLacks(
            "the GPU cannot be reached",
            expected="the package cuda-bindings",
            found=str(error),
            fix="Install it: pip install cuda-bindings",
        ) from error
    return runtime


def checked(result: tuple[Any, ...]) -> Any:
    """Return what a call gave behind its error code.

    Raises EnvironmentLacks in CUDA's own words for any code but success.
    """
    error, *values = result
    runtime = _runtime()
    if error != runtime.cudaError_t.cudaSuccess:
        text = runtime.cudaGetErrorString(error)[1]
        name = error.name
        none = name in _NO_GPU
        raise EnvironmentLacks(
            "no NVIDIA GPU can be used here" if none else "the GPU failed",
            expected="a GPU and a driver that fits the installed CUDA" if none else None,
            found=f"{name} ({text.decode() if isinstance(text, bytes) else text})",
            fix="Check nvidia-smi and the driver's version" if none else "Restart the station",
        )
    return values[0] if len(values) == 1 else None


def gpu() -> Gpu:
    """Return the GPU at hand.

    Raises EnvironmentLacks where there is none, no driver, or no cuda-bindings.
    """
    runtime = _runtime()
    checked(runtime.cudaGetDeviceCount())  # the first call tells of a driver that is missing or too old
    attributes = runtime.cudaDeviceAttr
    major, minor = (
        checked(runtime.cudaDeviceGetAttribute(attribute, _DEVICE))
        for attribute in (attributes.cudaDevAttrComputeCapabilityMajor, attributes.cudaDevAttrComputeCapabilityMinor)
    )
    name = checked(runtime.cudaGetDeviceProperties(_DEVICE)).name
    driver = checked(runtime.cudaDriverGetVersion())
    return Gpu(
        name=(name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0"),
        capability=f"{major}.{minor}",
        driver=f"{driver // 1000}.{driver % 1000 // 10}",
    )


class DeviceMemory:
    """Bytes on the GPU, at ``address``."""

    def __init__(self, size: int) -> None:
        runtime = _runtime()
        self.address = int(checked(runtime.cudaMalloc(size)))
        weakref.finalize(self, runtime.cudaFree, self.address)


class PinnedArray:
    """A numpy array in pinned host memory, from and to which the GPU copies without a stop in between."""

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        runtime = _runtime()
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.address = int(checked(runtime.cudaHostAlloc(size, runtime.cudaHostAllocDefault)))
        weakref.finalize(self, runtime.cudaFreeHost, self.address)
        raw = (ctypes.c_uint8 * size).from_address(self.address)
        self.array: NDArray[Any] = np.ctypeslib.as_array(raw).view(dtype).reshape(shape)


class Graph:
    """Work captured from a stream, launched as one."""

    def __init__(self, stream: "Stream", captured: Any) -> None:
        runtime = _runtime()
        self._stream = stream
        self._executable = checked(runtime.cudaGraphInstantiate(captured, 0))
        weakref.finalize(self, runtime.cudaGraphExecDestroy, self._executable)
        checked(runtime.cudaGraphDestroy(captured))

    def launch(self) -> None:
        """Put the work on its stream once more."""
        checked(_runtime().cudaGraphLaunch(self._executable, self._stream.handle))


class Stream:
    """A queue of work on the GPU; ``handle`` is CUDA's own."""

    def __init__(self) -> None:
        runtime = _runtime()
        self.handle = checked(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
        weakref.finalize(self, runtime.cudaStreamDestroy, self.handle)

    def to_device(self, memory: DeviceMemory, pinned: PinnedArray, size: int) -> None:
        """Queue a copy of the first ``size`` bytes to the GPU."""
        runtime = _runtime()
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        checked(runtime.cudaMemcpyAsync(memory.address, pinned.address, size, kind, self.handle))

    def to_host(self, pinned: PinnedArray, memory: DeviceMemory, size: int) -> None:
        """Queue a copy of the first ``size`` bytes from the GPU."""
        runtime = _runtime()
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        checked(runtime.cudaMemcpyAsync(pinned.address, memory.address, size, kind, self.handle))

    def capture(self, work: Callable[[], None]) -> Graph:
        """Return the graph of what ``work`` queues, which is recorded and not run."""
        runtime = _runtime()
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(runtime.cudaStreamBeginCapture(self.handle, mode))
        try:
            work()
        finally:
            captured = runtime.cudaStreamEndCapture(self.handle)
        return Graph(self, checked(captured))

    def wait(self) -> None:
        """Return once all queued work is done."""
        checked(_runtime().cudaStreamSynchronize(self.handle))
