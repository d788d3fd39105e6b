"""TensorRT engines from an ONNX model: one strongly typed builder for TensorRT 10.12 to 11 and for TensorRT-RTX.

Precision lives in the graph, never in the builder: what is computed in float16 or int8 is cast or quantised there. The
plan is the file, and all that is to be known about it stands in the manifest. Two builds of one model differ in a few
bytes, so an engine is known by its hash and never rebuilt to compare.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from export.runtime import cuda
from export.runtime.errors import EnvironmentLacks, GateError, UsageError
from export.runtime.interrupt import stoppable
from export.runtime.manifest import Engine, Hardware, Runtime, is_batch_profile
from export.runtime.tensorrt_library import NAMES, EngineRuntime, Words, load
from export.runtime.timing_cache import TimingCache

TIMINGS: Final = "timings"  # the folder of the timing caches in a station's store
_LEVELS: Final[dict[Hardware, str]] = {
    "this-gpu": "NONE",
    "same-capability": "SAME_COMPUTE_CAPABILITY",
    "ampere-plus": "AMPERE_PLUS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What an engine is built for.

    ``batch`` is the least, best and most frames at once; (1, 1, 1) is a static batch. ``capabilities`` such as "8.6"
    are the targets of TensorRT-RTX, none for one portable engine. TensorRT builds for the GPU at hand, ``hardware``
    says for which others, and with ``version_compatible`` later versions of the library run the plan, too.
    """

    runtime: EngineRuntime
    batch: tuple[int, ...] = (1, 1, 16)
    capabilities: tuple[str, ...] = ()
    version_compatible: bool = False
    hardware: Hardware = "this-gpu"


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """The raw plan, and what there is to know about it: the library, the targets, the model it came from."""

    plan: bytes
    options: EngineOptions
    version: str
    targets: tuple[str, ...]
    model_sha256: str

    def entry(self, path: str, precision: str) -> Engine:
        """Return the manifest's entry of the plan at ``path``; ``precision`` is the model's."""
        return Engine(
            path=path,
            runtime=self.options.runtime,
            precision=precision,
            version=self.version,
            targets=self.targets,
            batch=self.options.batch,
            hardware=self.options.hardware,
            version_compatible=self.options.version_compatible,
            model_sha256=self.model_sha256,
        )


def as_engine_runtime(runtime: Runtime) -> EngineRuntime:
    """Return the runtime if it runs engines; raises UsageError for one that runs the ONNX model itself."""
    if runtime in ("tensorrt", "tensorrt-rtx"):
        return runtime
    raise UsageError(
        f"{runtime} runs the ONNX model, no engine is built for it",
        expected="tensorrt or tensorrt-rtx",
        found=runtime,
        fix="Name one of these by --runtime, or take the device out of export.also_for",
    )


def require_builder(runtime: EngineRuntime) -> None:
    """Raise EnvironmentLacks where engines of a runtime cannot be built: no library, or no GPU where it needs one."""
    load(runtime)
    if runtime == "tensorrt":
        cuda.gpu()


def build_engine(model: bytes, options: EngineOptions, timings: Path | None = None) -> BuiltEngine:
    """Build an engine from a serialised ONNX model that takes uint8 frames (N, H, W, C).

    ``timings`` is the folder in which TensorRT's timing caches are kept.

    Raises UsageError for options that the runtime does not have, EnvironmentLacks where the runtime, or a GPU that it
    needs, is not here, and GateError where the parser or the builder refuses the model, in their own words.
    """
    _refuse_options(options)
    trt = load(options.runtime)
    words = Words(trt)
    # Built on the GPU at hand and for it; RTX needs none.
    gpu = cuda.gpu() if options.runtime == "tensorrt" else None
    builder = _builder(trt, options.runtime, words)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, words.logger)
    if not parser.parse(model):
        reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise _refused(options, "parser", "; ".join(reasons) or words.take())
    config = builder.create_builder_config()
    _set_batch(builder, config, network, options, words)
    _set_targets(trt, config, options)
    with _timed(config, trt, gpu, timings), stoppable(trt, config):
        built = builder.build_serialized_network(network, config)
    if built is None:
        raise _refused(options, "builder", words.take())
    targets = options.capabilities if gpu is None else (gpu.capability,)
    return BuiltEngine(bytes(built), options, str(trt.__version__), targets, hashlib.sha256(model).hexdigest())


def _refuse_options(options: EngineOptions) -> None:
    if not is_batch_profile(options.batch):
        raise UsageError(
            "no such batch profile",
            expected="least, best and most frames at once, each at least 1 and not below the one before",
            found=str(list(options.batch)),
            fix="Correct `batch` in the device profile",
        )
    if options.runtime == "tensorrt-rtx" and (options.version_compatible or options.hardware != "this-gpu"):
        raise UsageError(
            "TensorRT-RTX builds no engine for other versions, and chooses its GPUs by compute_capabilities",
            expected="neither version_compatible nor hardware",
            found="version_compatible" if options.version_compatible else f"hardware {options.hardware}",
            fix="Take it out of the device profile, and build once for each version of TensorRT-RTX",
        )
    if options.runtime == "tensorrt" and options.capabilities:
        raise UsageError(
            "TensorRT builds for the GPU at hand",
            expected="no compute_capabilities",
            found=", ".join(options.capabilities),
            fix="Take them out of the device profile; hardware = 'ampere-plus' makes one engine for many GPUs",
        )


def _builder(trt: Any, runtime: EngineRuntime, words: Words) -> Any:
    try:
        return trt.Builder(words.logger)
    except TypeError as error:  # of the bindings, where the library gives no builder
        raise EnvironmentLacks(
            f"{NAMES[runtime]} makes no builder here",
            found=words.take(),
            fix="Check nvidia-smi, and that the driver fits the library's version",
        ) from error


def _set_batch(builder: Any, config: Any, network: Any, options: EngineOptions, words: Words) -> None:
    if network.num_inputs != 1:
        raise _refused(options, "builder", f"the model has {network.num_inputs} inputs instead of one")
    taken = network.get_input(0)
    declared, *frame = (int(size) for size in taken.shape)
    if declared >= 0 and set(options.batch) != {declared}:
        raise _refused(options, "builder", f"the model takes batches of {declared} only, not {list(options.batch)}")
    profile = builder.create_optimization_profile()
    profile.set_shape(taken.name, *((batch, *frame) for batch in options.batch))
    if config.add_optimization_profile(profile) < 0:
        raise _refused(options, "builder", f"the batch profile is not accepted: {words.take()}")


def _set_targets(trt: Any, config: Any, options: EngineOptions) -> None:
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware != "this-gpu":
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, _LEVELS[options.hardware])
    if not options.capabilities:
        return
    config.num_compute_capabilities = len(options.capabilities)
    for index, capability in enumerate(options.capabilities):
        known = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}", None)
        if known is None or not config.set_compute_capability(known, index):
            raise _refused(options, "builder", f"no compute capability {capability}")


@contextmanager
def _timed(config: Any, trt: Any, gpu: cuda.Gpu | None, folder: Path | None) -> Iterator[None]:
    """Build with the timings of earlier builds on this GPU, and keep those that are new."""
    if gpu is None or folder is None:
        yield
        return
    cache = TimingCache(folder, str(trt.__version__), gpu.name, gpu.capability)
    with cache.locked():
        known = cache.read()
        if not config.set_timing_cache(config.create_timing_cache(known), False) and known:
            cache.set_aside("TensorRT says that it belongs to another GPU or version")
            config.set_timing_cache(config.create_timing_cache(b""), False)
        yield
        cache.write(bytes(config.get_timing_cache().serialize()))


def _refused(options: EngineOptions, who: str, words: str) -> GateError:
    return GateError(f"the {NAMES[options.runtime]} {who} refused the model", found=words)
