"""The network in its runtime: uint8 frames in, logits out, on the provider asked for and no other."""

from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from export.runtime.decision import softmax
from export.runtime.errors import BundleRefused, EnvironmentLacks, UsageError

__all__ = ["OnnxRunner", "Runner", "softmax"]

_PROVIDERS: Final = {"onnxruntime-cpu": "CPUExecutionProvider", "onnxruntime-cuda": "CUDAExecutionProvider"}
_ERRORS_ONLY: Final = 3


class Runner(Protocol):
    """A network in its runtime."""

    @property
    def provider(self) -> str:
        """What computes, as the runtime itself says: never another than was asked for."""
        ...

    def infer(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits float32 (N, classes) of uint8 frames (N, height, width, channels).

        Raises UsageError for frames of another shape or dtype.
        """
        ...

    def bound(self, frames: NDArray[np.uint8]) -> Callable[[], None]:
        """Lay the frames where they are computed; each call then computes them once and waits, moving nothing."""
        ...


class OnnxRunner:
    """An ONNX model in onnxruntime, taking uint8 (N, height, width, channels) and giving (N, classes)."""

    def __init__(
        self,
        model: bytes,
        *,
        runtime: str,
        threads: int,
        input_name: str,
        output_name: str,
        frame_shape: tuple[int, int, int],
        classes: int,
    ) -> None:
        """Open the model with ``threads`` intra-op threads.

        Raises EnvironmentLacks where the runtime's provider cannot run the model here, and
        BundleRefused where the model's input or output is not the one named.
        """
        self._session = _open_session(model, runtime, threads)
        self._input = input_name
        self._output = output_name
        self._frame_shape = frame_shape
        self._classes = classes
        self._one_by_one = self._check_signature()

    @property
    def provider(self) -> str:
        """The first provider of the open session, such as "CPUExecutionProvider"."""
        return str(self._session.get_providers()[0])

    def infer(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits float32 (N, classes) of uint8 frames (N, height, width, channels).

        Raises UsageError for frames of another shape or dtype.
        """
        self._check(frames)
        batches = frames[:, np.newaxis] if self._one_by_one else [frames]
        return np.concatenate([self._run(batch) for batch in batches])

    def bound(self, frames: NDArray[np.uint8]) -> Callable[[], None]:
        """Lay the frames, a batch that the model takes at once, where they are computed.

        Each call then computes them and waits, moving nothing to or from the device. Raises as ``infer`` does.
        """
        self._check(frames)
        device = "cuda" if self.provider == "CUDAExecutionProvider" else "cpu"
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input, _onnxruntime().OrtValue.ortvalue_from_numpy(frames, device, 0))
        binding.bind_output(self._output, device)

        def compute() -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return compute

    def _check(self, frames: NDArray[np.uint8]) -> None:
        if frames.dtype != np.uint8 or frames.shape[1:] != self._frame_shape or not len(frames):
            raise UsageError(
                "these frames do not fit the network",
                expected=f"uint8 (N, {', '.join(map(str, self._frame_shape))})",
                found=f"{frames.dtype} {frames.shape}",
                fix="Fit each picture by export.runtime.image.fit",
            )

    def _run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = self._session.run([self._output], {self._input: batch})[0]
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise EnvironmentLacks("the runtime failed", found=str(error), fix="Restart the station") from error
        if logits.dtype != np.float32 or logits.shape != (len(batch), self._classes):
            raise _mismatch(f"float32 logits {(len(batch), self._classes)}", f"{logits.dtype} {logits.shape}")
        return logits

    def _check_signature(self) -> bool:
        """Return whether the model takes one frame a run."""
        inputs = {item.name: item for item in self._session.get_inputs()}
        outputs = [item.name for item in self._session.get_outputs()]
        if list(inputs) != [self._input] or self._output not in outputs:
            raise _mismatch(f"input {self._input}, output {self._output}", f"{', '.join(inputs)}; {', '.join(outputs)}")
        taken = inputs[self._input]
        if taken.type != "tensor(uint8)" or len(taken.shape) != 4 or not self._admitted(taken.shape[1:]):
            raise _mismatch(
                f"tensor(uint8) (N, {', '.join(map(str, self._frame_shape))})", f"{taken.type} {taken.shape}"
            )
        if isinstance(taken.shape[0], int) and taken.shape[0] != 1:
            raise _mismatch("a batch of 1 or of any size", f"a batch of {taken.shape[0]}")
        return isinstance(taken.shape[0], int)

    def _admitted(self, declared: list[int | str | None]) -> bool:
        pairs = zip(declared, self._frame_shape, strict=True)
        return all(not isinstance(size, int) or size == needed for size, needed in pairs)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        fix = "Install the package onnxruntime or onnxruntime-gpu"
        raise _cannot_run("onnxruntime", str(error), fix) from error
    return onnxruntime


def _open_session(model: bytes, runtime: str, threads: int) -> Any:  # onnxruntime ships no types
    provider = _PROVIDERS.get(runtime)
    if provider is None:
        raise _cannot_run(runtime, "a runtime this station cannot run yet", "Build the bundle for onnxruntime")
    onnxruntime = _onnxruntime()
    if provider not in onnxruntime.get_available_providers():
        have = f"only {', '.join(onnxruntime.get_available_providers())}"
        raise _cannot_run(provider, have, "Install the onnxruntime package that has this provider")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    if provider == "CUDAExecutionProvider":
        # Otherwise nodes CUDA cannot take would run on the CPU, silently and slowly.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        # Its own fallback would go on, on the CPU, after any failure of the provider asked for.
        session = onnxruntime.InferenceSession(model, options, providers=[provider], enable_fallback=0)
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise _cannot_run(provider, str(error), "Match the runtime's version to the bundle's") from error
    if session.get_providers()[0] != provider:
        raise _cannot_run(provider, f"{session.get_providers()[0]} instead", "Check the provider's libraries")
    return session


def _cannot_run(expected: str, found: str, fix: str) -> EnvironmentLacks:
    return EnvironmentLacks("this station cannot run the model", expected=expected, found=found, fix=fix)


def _mismatch(expected: str, found: str) -> BundleRefused:
    return BundleRefused(
        "the model is not the one its manifest describes",
        expected=expected,
        found=found,
        fix="Build the bundle again",
    )
