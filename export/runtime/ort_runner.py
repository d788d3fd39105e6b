"""An ONNX model in ONNX Runtime, on the processor or by CUDA: the provider asked for and no other."""

import contextlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from export.runtime.contract import Contract, check_batch, mismatch
from export.runtime.errors import EnvironmentLacks
from export.runtime.fingerprint import vector_units

PROVIDERS: Final = {"onnxruntime-cpu": "CPUExecutionProvider", "onnxruntime-cuda": "CUDAExecutionProvider"}
_CUDA: Final = PROVIDERS["onnxruntime-cuda"]
_CUDA_FIX: Final = "Check nvidia-smi, and install CUDA's libraries: pip install 'onnxruntime-gpu[cuda,cudnn]'"
_FATAL_ONLY: Final = 4


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a thread lays one frame and finds its logits, bound to the session."""

    frame: NDArray[np.uint8]
    logits: NDArray[np.float32]
    binding: Any


class OnnxRunner:
    """An ONNX model in onnxruntime, taking uint8 (N, height, width, channels) and giving (N, classes)."""

    def __init__(self, model: bytes, contract: Contract, *, runtime: str, threads: int) -> None:
        """Open the model with ``threads`` intra-op threads.

        Raises EnvironmentLacks where the runtime's provider cannot run the model here, and
        BundleRefused where the model's input or output is not the contract's.
        """
        self._session = _open_session(model, runtime, threads)
        self._contract = contract
        self._one_by_one = self._check_signature()
        self._places = threading.local()
        self._moves = self.provider == _CUDA

    @property
    def provider(self) -> str:
        """The first provider of the open session, such as "CPUExecutionProvider"."""
        return str(self._session.get_providers()[0])

    def infer(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits float32 (N, classes) of uint8 frames (N, height, width, channels).

        Raises UsageError for frames of another shape or dtype.
        """
        self._contract.check(frames)
        batches = frames[:, np.newaxis] if self._one_by_one else [frames]
        return np.concatenate([self._run(batch) for batch in batches])

    def infer_one(self, frame: NDArray[np.uint8]) -> list[float]:
        """Return the logits of one uint8 frame (height, width, channels); several threads may ask at once.

        On the processor the frame is laid where the model reads it: quicker than ``infer``, to the same logits. Raises
        as ``infer`` does.
        """
        if self._moves:
            logits: list[float] = self.infer(frame[np.newaxis])[0].tolist()
            return logits
        self._contract.check_one(frame)
        place: _Place | None = getattr(self._places, "own", None)
        if place is None:
            place = self._places.own = self._new_place()
        place.frame[0] = frame
        try:
            self._session.run_with_iobinding(place.binding)
        except Exception as error:  # as below
            raise _failed(error) from error
        own: list[float] = place.logits[0].tolist()
        return own

    def bound(self, frames: NDArray[np.uint8]) -> Callable[[], None]:
        """Lay the frames, a batch that the model takes at once, where they are computed.

        Each call then computes them and waits, moving nothing to or from the device. Raises as ``infer`` does.
        """
        self._contract.check(frames)
        if self._one_by_one:
            check_batch(len(frames), 1, 1, "Send one frame at a time, or build the model for batches of any size")
        device = "cuda" if self.provider == _CUDA else "cpu"
        try:
            laid = _onnxruntime().OrtValue.ortvalue_from_numpy(np.ascontiguousarray(frames), device, 0)
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(self._contract.input_name, laid)
            binding.bind_output(self._contract.output_name, device)
        except Exception as error:  # as below
            raise _failed(error) from error

        def compute() -> None:
            try:
                self._session.run_with_iobinding(binding)
                binding.synchronize_outputs()
            except Exception as error:  # as below
                raise _failed(error) from error

        return compute

    def _new_place(self) -> "_Place":
        contract, ort = self._contract, _onnxruntime()
        frame = np.zeros((1, *contract.frame_shape), np.uint8)
        logits = self._run(frame).copy()  # which holds the model's output to the contract
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(contract.input_name, ort.OrtValue.ortvalue_from_numpy(frame))
        binding.bind_ortvalue_output(contract.output_name, ort.OrtValue.ortvalue_from_numpy(logits))
        return _Place(frame, logits, binding)

    def _run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        contract = self._contract
        try:
            found = self._session.run([contract.output_name], {contract.input_name: batch})
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise _failed(error) from error
        logits: NDArray[np.float32] = found[0]
        if logits.dtype != np.float32 or logits.shape != (len(batch), contract.classes):
            raise mismatch(f"float32 logits {(len(batch), contract.classes)}", f"{logits.dtype} {logits.shape}")
        return logits

    def _check_signature(self) -> bool:
        """Return whether the model takes one frame a run."""
        asked = self._contract
        inputs = {item.name: item for item in self._session.get_inputs()}
        outputs = [item.name for item in self._session.get_outputs()]
        if list(inputs) != [asked.input_name] or asked.output_name not in outputs:
            found = f"{', '.join(inputs)}; {', '.join(outputs)}"
            raise mismatch(f"input {asked.input_name}, output {asked.output_name}", found)
        taken = inputs[asked.input_name]
        if taken.type != "tensor(uint8)" or len(taken.shape) != 4 or not self._admitted(taken.shape[1:]):
            expected = f"tensor(uint8) (N, {', '.join(map(str, asked.frame_shape))})"
            raise mismatch(expected, f"{taken.type} {taken.shape}")
        if isinstance(taken.shape[0], int) and taken.shape[0] != 1:
            raise mismatch("a batch of 1 or of any size", f"a batch of {taken.shape[0]}")
        return isinstance(taken.shape[0], int)

    def _admitted(self, declared: list[int | str | None]) -> bool:
        pairs = zip(declared, self._contract.frame_shape, strict=True)
        return all(not isinstance(size, int) or size == needed for size, needed in pairs)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        fix = "Install the package onnxruntime or onnxruntime-gpu"
        raise _cannot_run("onnxruntime", str(error), fix) from error
    return onnxruntime


@cache
def _adds_exactly() -> bool:
    """Whether products of int8 are added up in 32 bits here whatever ONNX Runtime is told.

    An x86 processor without VNNI or AMX adds them up in 16, which saturate: scores would be others than elsewhere. It
    has to be told, and takes longer for it; so would one that has them, more than twice as long.
    """
    return bool({"avx_vnni", "avx512_vnni", "amx_tile"}.intersection(vector_units()))


def _open_session(model: bytes, runtime: str, threads: int) -> Any:  # onnxruntime ships no types
    provider = PROVIDERS.get(runtime)
    if provider is None:
        raise _cannot_run(f"one of {', '.join(PROVIDERS)}", runtime, "Name one of these; engines run by other runtimes")
    onnxruntime = _onnxruntime()
    if provider not in onnxruntime.get_available_providers():
        have = f"only {', '.join(onnxruntime.get_available_providers())}"
        fix = "pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"
        raise _cannot_run(provider, have, fix)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY  # whoever reads the error raised has read it
    if not _adds_exactly():
        options.add_session_config_entry("session.x64quantprecision", "1")
    if provider == _CUDA:
        # Otherwise nodes CUDA cannot take would run on the CPU, silently and slowly.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it cannot find; stdout is for verdicts
            onnxruntime.preload_dlls()
    fix = _CUDA_FIX if provider == _CUDA else "Match the runtime's version to the bundle's"
    try:
        # Its own fallback would go on, on the CPU, after any failure of the provider asked for.
        session = onnxruntime.InferenceSession(model, options, providers=[provider], enable_fallback=0)
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise _cannot_run(provider, _in_one_line(error), fix) from error
    if session.get_providers()[0] != provider:
        raise _cannot_run(provider, f"{session.get_providers()[0]} instead", fix)
    return session


def _cannot_run(expected: str, found: str, fix: str) -> EnvironmentLacks:
    return EnvironmentLacks("this station cannot run the model", expected=expected, found=found, fix=fix)


def _failed(error: Exception) -> EnvironmentLacks:
    fix = "Restart the station; if it stays, build the bundle again"
    return EnvironmentLacks("the runtime failed", found=_in_one_line(error), fix=fix)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
