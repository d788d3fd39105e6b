"""An engine in TensorRT or TensorRT-RTX: pinned buffers, one stream, a CUDA graph for each size of batch.

An engine is native code. Whoever opens one has verified who signed it, to the last byte.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from export.runtime import cuda
from export.runtime.contract import Contract, check_batch, mismatch
from export.runtime.errors import EnvironmentLacks
from export.runtime.kernel_cache import KernelCache
from export.runtime.manifest import Engine
from export.runtime.tensorrt_library import NAMES, EngineRuntime, Words, header_version, load, rebuild_command

_BATCH_FIX: Final = "Send other batches, or set `batch` in the device profile and build the engine again"
_OLD_DRIVER: Final = "OLD_CUDA_DRIVER"


def rebuild(runtime: EngineRuntime) -> str:
    """Return the fix where another engine of the same model is needed."""
    return f"Build an engine for this station: {rebuild_command(runtime)}"


class EngineRunner:
    """A verified engine, taking uint8 (N, height, width, channels) and giving (N, classes)."""

    def __init__(self, plan: bytes, engine: Engine, contract: Contract, store: Path | None = None) -> None:
        """Open the plan that the manifest's ``engine`` describes; ``store`` is where a station keeps its kernels.

        Raises EnvironmentLacks where the library, its version or the GPU is not the one the engine was built for, in
        the library's own words, and BundleRefused where the engine's input or output is not the contract's.
        """
        trt = load(engine.runtime)
        check_version(engine, str(trt.__version__))
        gpu = cuda.gpu()
        check_gpu(engine, gpu)
        self._trt = trt
        self._cache = KernelCache(store, plan, gpu) if store is not None and engine.runtime == "tensorrt-rtx" else None
        self._entry = engine
        self._contract = contract
        self._words = Words(trt)
        self._runtime = _runtime(trt, engine, self._words)
        self._engine = _deserialise(trt, self._runtime, plan, engine, self._words)
        _check_signature(trt, self._engine, engine, contract)
        self._stream = cuda.Stream()
        most = engine.batch[2]
        self._frames = cuda.PinnedArray((most, *contract.frame_shape), np.uint8)
        self._logits = cuda.PinnedArray((most, contract.classes), np.float32)
        self._input = cuda.DeviceMemory(self._frames.array.nbytes)
        self._output = cuda.DeviceMemory(self._logits.array.nbytes)
        self._one_at_a_time = Lock()  # there is one set of buffers
        self._contexts: dict[int, Any] = {}
        self._launches: dict[int, Callable[[], None]] = {}

    @property
    def provider(self) -> str:
        """The library and its version, such as "TensorRT-RTX 1.7.1.116"."""
        return f"{NAMES[self._entry.runtime]} {self._trt.__version__}"

    def infer(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits float32 (N, classes) of uint8 frames (N, height, width, channels).

        Raises UsageError for frames of another shape or dtype, or more or fewer than the engine takes at once.
        """
        with self._one_at_a_time:
            launch = self._lay(frames)
            launch()
            number = len(frames)
            self._stream.to_host(self._logits, self._output, self._logits.array[:number].nbytes)
            self._stream.wait()
            return np.array(self._logits.array[:number])

    def infer_one(self, frame: NDArray[np.uint8]) -> list[float]:
        """Return the logits of one uint8 frame (height, width, channels), by whichever thread; raises as ``infer``."""
        logits: list[float] = self.infer(frame[np.newaxis])[0].tolist()
        return logits

    def bound(self, frames: NDArray[np.uint8]) -> Callable[[], None]:
        """Lay the frames on the GPU; until others are laid, each call computes them once and waits, moving nothing.

        Raises as ``infer`` does.
        """
        launch = self._lay(frames)
        self._stream.wait()

        def compute() -> None:
            launch()
            self._stream.wait()

        return compute

    def _lay(self, frames: NDArray[np.uint8]) -> Callable[[], None]:
        """Queue the copy of the frames and return what computes them."""
        self._contract.check(frames)
        least, _, most = self._entry.batch
        number = len(frames)
        check_batch(number, least, most, _BATCH_FIX)
        self._frames.array[:number] = frames
        self._stream.to_device(self._input, self._frames, self._frames.array[:number].nbytes)
        if number not in self._launches:
            self._launches[number] = self._prepared(number)
        return self._launches[number]

    def _prepared(self, number: int) -> Callable[[], None]:
        """Return what computes a batch of this size: the graph of an execution that has run plainly once.

        Each size has an execution context of its own: a graph is valid only while its context stays as it was.
        """
        context = self._contexts[number] = self._context(number)

        def execute() -> None:
            if not context.execute_async_v3(int(self._stream.handle)):
                raise self._failed("the engine cannot be executed")

        execute()
        self._stream.wait()
        if self._cache is not None:
            self._cache.keep()
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(int(self._stream.handle)):
            return execute
        return self._stream.capture(execute).launch

    def _context(self, number: int) -> Any:
        strategies = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            context = self._engine.create_execution_context()
        else:
            # By default RTX swaps in the kernels for a shape some time later, which a graph would never see.
            config = self._engine.create_runtime_config()
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
            if self._cache is not None:
                self._cache.attach(config)
            context = self._engine.create_execution_context(config)
        if context is None:
            raise self._failed("the engine gets no execution context")
        contract = self._contract
        done = (
            context.set_input_shape(contract.input_name, (number, *contract.frame_shape)),
            not context.infer_shapes(),
            context.set_tensor_address(contract.input_name, self._input.address),
            context.set_tensor_address(contract.output_name, self._output.address),
        )
        if not all(done):
            raise self._failed(f"the engine cannot be prepared for a batch of {number}")
        return context

    def _failed(self, what: str) -> EnvironmentLacks:
        return EnvironmentLacks(
            what, found=self._words.take(), fix="Restart the station; if it stays, rebuild the engine"
        )


def check_version(engine: Engine, version: str) -> None:
    """Raise EnvironmentLacks unless this version of the library may run the engine."""
    later = engine.version_compatible and _numbers(version) >= _numbers(engine.version)
    if version != engine.version and not later:
        raise EnvironmentLacks(
            f"the engine was built by another version of {NAMES[engine.runtime]}",
            expected=f"{engine.version}{' or later' if engine.version_compatible else ''}",
            found=version,
            fix=f"Install that version. Or: {rebuild(engine.runtime)}",
        )


def check_gpu(engine: Engine, gpu: cuda.Gpu) -> None:
    """Raise EnvironmentLacks unless this GPU may run the engine; TensorRT-RTX judges that itself when it opens one."""
    if engine.runtime == "tensorrt" and not _runs_on(engine, gpu.capability):
        wanted = "8.0 or higher" if engine.hardware == "ampere-plus" else ", ".join(engine.targets)
        raise EnvironmentLacks(
            "the engine was built for another GPU",
            expected=f"compute capability {wanted}",
            found=f"{gpu.capability} ({gpu.name})",
            fix=rebuild(engine.runtime),
        )


def _runs_on(engine: Engine, capability: str) -> bool:
    if engine.hardware == "ampere-plus":
        return _numbers(capability) >= (8, 0)
    return capability in engine.targets


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _runtime(trt: Any, engine: Engine, words: Words) -> Any:
    try:
        return trt.Runtime(words.logger)
    except TypeError as error:  # of the bindings, where the library gives no runtime
        fix = "Check nvidia-smi, and that the driver fits the library's version"
        raise EnvironmentLacks(f"{NAMES[engine.runtime]} does not start", found=words.take(), fix=fix) from error


def _deserialise(trt: Any, runtime: Any, plan: bytes, engine: Engine, words: Words) -> Any:
    if hasattr(runtime, "get_engine_validity"):
        _check_validity(trt, runtime, plan, engine, words)
    if engine.version_compatible:
        # Such a plan brings host code of its own; who signed it has been verified.
        runtime.engine_host_code_allowed = True
    opened = runtime.deserialize_cuda_engine(plan)
    if opened is None:
        hint = header_version(plan)
        said = words.take() if hint is None else f"{words.take()} (the plan's header names version {hint})"
        raise EnvironmentLacks(
            f"{NAMES[engine.runtime]} does not open the engine",
            expected=f"one of {engine.version} for this GPU",
            found=said,
            fix=rebuild(engine.runtime),
        )
    return opened


def _check_validity(trt: Any, runtime: Any, plan: bytes, engine: Engine, words: Words) -> None:
    validity, bits = runtime.get_engine_validity(plan)
    if validity == trt.EngineValidity.SUBOPTIMAL:
        logging.getLogger(__name__).warning(
            "TensorRT-RTX says that the engine is not the fastest for this GPU. %s", rebuild(engine.runtime)
        )
    if validity != trt.EngineValidity.INVALID:
        return
    known = trt.EngineInvalidityDiagnostics.__members__
    reasons = [name for name, member in known.items() if int(bits) & int(member)]
    targets = ", ".join(engine.targets) or "8.0, 8.6, 8.9, 12.0 or higher"
    raise EnvironmentLacks(
        "TensorRT-RTX says that the engine cannot run here",
        expected=f"{engine.version} on a GPU of compute capability {targets}, with a driver that fits it",
        found=", ".join(reasons) or words.take(),
        fix="Update the GPU's driver" if _OLD_DRIVER in reasons else rebuild(engine.runtime),
    )


def _check_signature(trt: Any, opened: Any, engine: Engine, contract: Contract) -> None:
    names = [opened.get_tensor_name(index) for index in range(opened.num_io_tensors)]
    modes = {name: opened.get_tensor_mode(name) for name in names}
    expected = {contract.input_name: trt.TensorIOMode.INPUT, contract.output_name: trt.TensorIOMode.OUTPUT}
    if modes != expected:
        raise mismatch(f"input {contract.input_name}, output {contract.output_name}", ", ".join(names) or "no tensors")
    kinds = (opened.get_tensor_dtype(contract.input_name), opened.get_tensor_dtype(contract.output_name))
    if kinds != (trt.DataType.UINT8, trt.DataType.FLOAT):
        raise mismatch("uint8 frames and float32 logits", " and ".join(map(str, kinds)))
    taken = [tuple(int(size) for size in dims) for dims in opened.get_tensor_profile_shape(contract.input_name, 0)]
    wanted = [(batch, *contract.frame_shape) for batch in engine.batch]
    if taken != wanted:
        raise mismatch(f"batches of {wanted}", str(taken))
    given = tuple(int(size) for size in opened.get_tensor_shape(contract.output_name))
    if given[1:] != (contract.classes,):
        raise mismatch(f"logits (N, {contract.classes})", str(given))
