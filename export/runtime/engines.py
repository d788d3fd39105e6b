"""The door to the runtimes: what a verified bundle holds for one, opened on the provider asked for and no other."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from export.runtime import cuda
from export.runtime.contract import Contract
from export.runtime.decision import softmax
from export.runtime.errors import EnvironmentLacks
from export.runtime.manifest import Draft, Engine, Manifest, Runtime, Variant, variant_of
from export.runtime.ort_runner import OnnxRunner
from export.runtime.tensorrt_library import NAMES, EngineRuntime
from export.runtime.trt_runner import EngineRunner, rebuild
from export.runtime.trust import VerifiedBundle

__all__ = ["EngineRunner", "OnnxRunner", "Opened", "Runner", "contract_of", "fitting", "open_runner", "softmax"]


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

    def infer_one(self, frame: NDArray[np.uint8]) -> list[float]:
        """Return the logits of one uint8 frame (height, width, channels); several threads may ask at once."""
        ...

    def bound(self, frames: NDArray[np.uint8]) -> Callable[[], None]:
        """Lay the frames where they are computed; each call then computes them once and waits, moving nothing."""
        ...


def contract_of(manifest: Draft) -> Contract:
    """Return what the manifest says of the network's input and output."""
    taken = manifest.input
    return Contract(
        input_name=taken.name,
        output_name=manifest.output.name,
        frame_shape=(taken.height, taken.width, taken.channels),
        classes=len(manifest.labels),
    )


class Opened(NamedTuple):
    """A network in its runtime, and the model that it was made from, with its threshold and golden scores."""

    runner: Runner
    variant: Variant


def open_runner(
    bundle: VerifiedBundle, runtime: Runtime, own: tuple[Engine, bytes] | None = None, store: Path | None = None
) -> Opened:
    """Return the network of a verified bundle in ``runtime``.

    ``own`` is an engine that this station built for itself, verified likewise; it goes before those of the bundle.
    ``store`` is the station's folder, in which kernels are kept between starts.

    Raises EnvironmentLacks where this machine cannot run it, and BundleRefused where a file is not what the manifest
    says.
    """
    manifest = bundle.manifest
    contract = contract_of(manifest)
    if runtime not in ("tensorrt", "tensorrt-rtx"):
        model = Variant(model=manifest.model, decision=manifest.decision, golden=manifest.golden)
        data = bundle.contents[manifest.model.path]
        return Opened(OnnxRunner(data, contract, runtime=runtime, threads=manifest.threads), model)
    if own is None:
        engine = fitting(manifest, runtime)
        own = engine, bundle.contents[engine.path]
    return Opened(EngineRunner(own[1], own[0], contract, store), variant_of(manifest, own[0].model_sha256))


def fitting(manifest: Manifest, runtime: EngineRuntime) -> Engine:
    """Return the engine for the GPU here: one built for it goes before a portable one, else the first in the manifest.

    Raises EnvironmentLacks where the bundle holds none, or several and no GPU is here to choose by.
    """
    engines = [engine for engine in manifest.engines if engine.runtime == runtime]
    if not engines:
        raise EnvironmentLacks(
            f"the bundle holds no {NAMES[runtime]} engine",
            expected=f"an engine for {runtime}",
            found=", ".join(f"{engine.path} for {engine.runtime}" for engine in manifest.engines) or "no engine at all",
            fix=rebuild(runtime),
        )
    if len(engines) == 1:  # whether it fits is told by whoever opens it
        return engines[0]
    capability = cuda.gpu().capability
    return min(engines, key=lambda engine: (capability not in engine.targets, bool(engine.targets)))
