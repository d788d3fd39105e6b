"""The profile of a kind of station."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from export.runtime.engine_builder import EngineOptions, as_engine_runtime
from export.runtime.manifest import Fallback, Hardware, is_batch_profile
from factory.profiles.table import NAME, Name, Table

Precision = Literal["fp32", "fp16", "int8"]


class DeviceProfile(Table):
    """One kind of station.

    `precisions` are those tried; what is delivered passes the gate and is the fastest. An engine takes `batch` frames
    at once (least, which is 1, best, most). TensorRT-RTX builds for `compute_capabilities`, or one portable engine;
    TensorRT builds for the GPU at hand, `hardware` and `version_compatible` make it run on more. `measured` says where
    latencies are measured: on this machine, which then is such a station, or at the station. `taught_by` names devices
    that were measured before, or can be measured here: with what their latencies teach, half as many networks are
    measured on this one.
    """

    name: str = Field(pattern=NAME)
    description: str
    runtime: Literal["onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"]
    precisions: tuple[Precision, ...] = ("fp32",)
    threads: int = Field(1, ge=1, le=256)
    fallback: Fallback | None = None
    batch: tuple[int, int, int] = (1, 1, 16)
    compute_capabilities: tuple[str, ...] = ()
    hardware: Hardware = "this-gpu"
    version_compatible: bool = False
    measured: Literal["here", "station"] = "here"
    taught_by: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "DeviceProfile":
        if self.runtime == "onnxruntime-cuda" and "int8" in self.precisions:
            raise ValueError(
                "precisions: onnxruntime-cuda has no int8 convolutions and would compute in float: use fp16"
            )
        if not is_batch_profile(self.batch) or self.batch[0] != 1:  # a station's golden pictures come one by one
            raise ValueError("batch must be 1, the best and the most frames at once, such as [1, 1, 16]")
        if self.fallback == self.runtime:
            raise ValueError("fallback must be another runtime than the device's own: leave it out")
        if self.compute_capabilities and self.runtime != "tensorrt-rtx":
            raise ValueError("compute_capabilities are of the runtime tensorrt-rtx: leave them out")
        if (self.version_compatible or self.hardware != "this-gpu") and self.runtime != "tensorrt":
            raise ValueError("version_compatible and hardware are of the runtime tensorrt: leave them out")
        return self

    @property
    def engine(self) -> EngineOptions:
        """What an engine for this kind of station is built for.

        Raises:
            UsageError: if its runtime runs the ONNX model itself.
        """
        return EngineOptions(
            runtime=as_engine_runtime(self.runtime),
            batch=self.batch,
            capabilities=self.compute_capabilities,
            hardware=self.hardware,
            version_compatible=self.version_compatible,
        )

    @field_validator("precisions")
    @classmethod
    def _with_float32(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if "fp32" not in values or len(set(values)) != len(values):
            raise ValueError("fp32 must stand there, and each once: it is what the others are judged by")
        return values
