"""TensorRT-RTX engines, built without a GPU: the plan is finished by the station's own driver.

The one builder path is strongly typed: precision lives in the ONNX graph. An engine is tied to its library version;
two builds of one model differ in a few bytes, so an engine is known by its hash and never rebuilt to compare.
"""

import importlib
import importlib.util
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from export.build.onnx import INPUT
from export.runtime.errors import EnvironmentLacks, GateError

BATCHES: Final = (1, 1, 16)  # least, best, most frames at once
MAGIC: Final = b"vtrt"


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """The raw plan, the library version it needs, and the compute capabilities it was built for."""

    plan: bytes
    version: str
    targets: tuple[str, ...]


def _load() -> Any:
    """Import the bindings behind the wheel that carries the libraries, whose import preloads them."""
    for name in ("onnxruntime_ep_nv_tensorrt_rtx", "tensorrt_rtx_bindings"):
        if importlib.util.find_spec(name) is None:
            raise EnvironmentLacks(
                "TensorRT-RTX is not installed",
                expected=f"the package {name}",
                fix="install the extra 'rtx': pip install 'edge-model-factory[rtx]'",
            )
    importlib.import_module("onnxruntime_ep_nv_tensorrt_rtx")
    return importlib.import_module("tensorrt_rtx_bindings")


def build_engine(model: bytes, runtime: str, capabilities: Sequence[str]) -> EnginePlan:
    """Build an engine from an ONNX model with dynamic batch.

    Args:
        model: serialised ONNX, uint8 frames (N, H, W, C).
        runtime: "tensorrt-rtx"; other engines are not built yet.
        capabilities: such as "8.6"; none makes one portable engine.

    Raises:
        EnvironmentLacks: if the runtime's builder is not installed.
        GateError: if the parser or the builder refuses the model, in their own words.
    """
    if runtime != "tensorrt-rtx":
        raise EnvironmentLacks(
            f"engines for runtime {runtime!r} are not built by this version",
            expected="tensorrt-rtx",
            fix="take the device out of export.also_for; the ONNX model is in the bundle",
        )
    trt = _load()
    words: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR}:
                words.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        words += [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise _refused("parser", words)
    config = _config(trt, builder, network, capabilities)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise _refused("builder", words)
    plan = bytes(built)
    if plan[:4] != MAGIC:
        raise _refused("builder", [f"the plan begins with {plan[:4]!r}, not {MAGIC!r}"])
    return EnginePlan(plan, str(trt.__version__), tuple(capabilities))


def _config(trt: Any, builder: Any, network: Any, capabilities: Sequence[str]) -> Any:
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    shape = tuple(network.get_input(0).shape)[1:]
    profile.set_shape(INPUT, *((batch, *shape) for batch in BATCHES))
    if config.add_optimization_profile(profile) < 0:
        raise _refused("builder", ["the batch profile is not accepted"])
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            member = "SM" + capability.replace(".", "")
            known = getattr(trt.ComputeCapability, member, None)
            if known is None:
                raise _refused("builder", [f"no compute capability {capability}"])
            config.set_compute_capability(known, index)
    return config


def _refused(who: str, words: Sequence[str]) -> GateError:
    return GateError(f"the TensorRT-RTX {who} refused the model", found="; ".join(words) or "no reason given")


def header_version(plan: bytes) -> tuple[int, ...]:
    """Library version noted in a plan's header (observed layout, undocumented: a hint, not a proof)."""
    return tuple(struct.unpack_from("4B", plan, 24))
