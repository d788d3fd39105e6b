"""TensorRT and CUDA as recorded from the real bindings: what is not in the record is refused, and so is a wrong call.

Neither can run without a GPU. What stands in for them here computes for real: a plan holds the ONNX model it was built
from, device memory is host memory, and work waits on its stream until somebody waits for it.
"""

import ctypes
import enum
import json
import re
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.runtime.contract import Contract
from export.runtime.ort_runner import OnnxRunner

RECORD: dict[str, Any] = json.loads(Path(__file__).with_name("tensorrt.json").read_text("utf-8"))
VERSIONS = sorted(name for name in RECORD if name.startswith("tensorrt"))
CONTRACT = Contract(input_name="image", output_name="logits", frame_shape=(8, 8, 1), classes=3)
MAGIC = b"fake plan of "
KERNEL = b"kernel for "
_BASIC: dict[str, type | tuple[type, ...]] = {
    "bool": bool, "int": int, "SupportsInt": int, "str": str, "tuple": tuple, "list": list, "Dims": (tuple, list),
    "buffer": bytes, "Buffer": bytes,
}  # fmt: skip
_NOTHING: dict[str, Any] = {"bool": True, "int": 0, "str": "", "None": None, "list[str]": [], "List[str]": []}


class _Enum(enum.Enum):
    def __int__(self) -> int:
        return int(self.value)


class Library(types.ModuleType):
    """A module of TensorRT by its record; ``said`` holds every call in its order, ``behave`` what calls return."""

    def __init__(self, record: str) -> None:
        super().__init__(record.partition(" ")[0].replace("-", "_"))
        described = RECORD[record]
        self.__version__ = described["version"]
        self.said: list[tuple[str, tuple[Any, ...]]] = []
        self.behave: dict[str, Any] = {}
        for name, kind in described["classes"].items():
            setattr(self, name, self._class(name, kind))
        for path, members in described["enums"].items():
            owner, _, name = path.rpartition(".")
            setattr(getattr(self, owner) if owner else self, name, _Enum(name, members))

    def names(self) -> list[str]:
        """What was called, in its order."""
        return [name for name, _ in self.said]

    def make(self, name: str, **state: Any) -> Any:
        """An instance such as the library itself returns."""
        made = object.__new__(getattr(self, name))
        made.__dict__.update(state)
        return made

    def _class(self, name: str, kind: dict[str, Any]) -> type:
        members: dict[str, Any] = {"__setattr__": _refuse_unknown(name, kind["members"])}
        members["__init__"] = self._callable(f"{name}.__init__", kind["init"])
        for member, what in kind["members"].items():
            called = f"{name}.{member}"
            members[member] = self._property(called) if isinstance(what, str) else self._callable(called, what)
        if name == "IHostMemory":
            members["__bytes__"] = lambda self: self.__dict__["data"]
        return type(name, (), members)

    def _property(self, called: str) -> property:
        member = called.rpartition(".")[2]

        def read(this: Any) -> Any:
            return this.__dict__.get(member, self.behave.get(called))

        def write(this: Any, value: Any) -> None:
            self.said.append((called, (value,)))
            this.__dict__[member] = value

        return property(read, write)

    def _callable(self, called: str, overloads: list[str]) -> Callable[..., Any]:
        def call(this: Any, *arguments: Any) -> Any:
            returned = self._returned(called, overloads, arguments)
            self.said.append((called, arguments))
            if called in self.behave:
                return self.behave[called](this, *arguments)
            return None if called.endswith("__init__") else self._nothing(returned)

        return call

    def _nothing(self, returned: str) -> Any:
        if returned in _NOTHING:
            return _NOTHING[returned]
        return self.make({"nvonnxparser::IParserError": "ParserError"}.get(returned, returned))

    def _returned(self, called: str, overloads: list[str], arguments: tuple[Any, ...]) -> str:
        for overload in overloads:
            inside, _, returned = overload.rpartition(" -> ")
            if self._fits(_parameters(inside), arguments):
                return returned
        raise AssertionError(f"{called} takes {overloads}, and was given {arguments}")

    def _fits(self, parameters: list[tuple[str, bool]], arguments: tuple[Any, ...]) -> bool:
        needed = sum(not optional for _, optional in parameters)
        if not needed <= len(arguments) <= len(parameters):
            return False
        return all(self._is(kind, given) for (kind, _), given in zip(parameters, arguments, strict=False))

    def _is(self, kind: str, given: Any) -> bool:
        kind = kind.removeprefix("nvinfer1::")
        basic = _BASIC.get(kind, getattr(self, kind, None))
        assert basic is not None, f"the record does not say what {kind} is"
        return isinstance(given, basic) and (kind == "bool" or not isinstance(given, bool))


def _parameters(inside: str) -> list[tuple[str, bool]]:
    """The type of each parameter, and whether it may be left out."""
    found = re.findall(r"\w+: ([\w:]+)(?: = ([^,)]+))?", inside)
    return [(kind, bool(default)) for kind, default in found]


def _refuse_unknown(name: str, members: dict[str, Any]) -> Callable[[Any, str, Any], None]:
    def assign(this: Any, member: str, value: Any) -> None:
        assert members.get(member) == "write", f"{name}.{member} cannot be set"
        object.__setattr__(this, member, value)

    return assign


class Cuda(types.ModuleType):
    """`cuda.bindings.runtime` by its record, over the memory of this process."""

    def __init__(self, record: str = "cuda 13.5", *, capability: tuple[int, int] = (8, 6)) -> None:
        super().__init__("runtime")
        described = RECORD[record]
        for name, members in described["enums"].items():
            setattr(self, name, _Enum(name, members))
        for name, value in described["constants"].items():
            setattr(self, name, value)
        for name, text in described["functions"].items():
            setattr(self, name, self._checked(name, text.count(",") + (not text.endswith("()"))))
        self.capability, self.name = capability, b"NVIDIA RTX A2000"
        self.memory: dict[int, Any] = {}
        self.queues: dict[int, list[Callable[[], None]]] = {}
        self.captured: list[Callable[[], None]] | None = None
        self.said: list[str] = []

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        """Put work on a stream, or into the graph that is being captured."""
        (self.queues[stream] if self.captured is None else self.captured).append(work)

    def _checked(self, name: str, arity: int) -> Callable[..., tuple[Any, ...]]:
        def call(*arguments: Any) -> tuple[Any, ...]:
            assert len(arguments) == arity, f"{name} takes {arity}, and was given {arguments}"
            self.said.append(name)
            value = getattr(self, f"_{name}")(*arguments)
            return (self.cudaError_t.cudaSuccess,) if value is None else (self.cudaError_t.cudaSuccess, value)

        return call

    def _cudaGetDeviceCount(self) -> int:  # noqa: N802
        return 1

    def _cudaDeviceGetAttribute(self, attribute: Any, device: int) -> int:  # noqa: N802
        assert device == 0
        return self.capability[attribute is self.cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor]

    def _cudaGetDeviceProperties(self, device: int) -> Any:  # noqa: N802
        return types.SimpleNamespace(name=self.name)

    def _cudaDriverGetVersion(self) -> int:  # noqa: N802
        return 13010

    def _cudaMalloc(self, size: int) -> int:  # noqa: N802
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def _cudaHostAlloc(self, size: int, flags: int) -> int:  # noqa: N802
        assert flags == self.cudaHostAllocDefault
        return self._cudaMalloc(size)

    def _cudaFree(self, address: int) -> None:  # noqa: N802
        del self.memory[address]

    _cudaFreeHost = _cudaFree  # noqa: N815

    def _cudaMemcpyAsync(self, to: int, of: int, size: int, kind: Any, stream: Any) -> None:  # noqa: N802
        assert isinstance(kind, self.cudaMemcpyKind)
        self.queue(int(stream), lambda: ctypes.memmove(to, of, size))

    def _cudaStreamCreateWithFlags(self, flags: int) -> int:  # noqa: N802
        handle = max(self.queues, default=76) + 1
        self.queues[handle] = []
        return handle

    def _cudaStreamDestroy(self, stream: int) -> None:  # noqa: N802
        del self.queues[stream]

    def _cudaStreamSynchronize(self, stream: int) -> None:  # noqa: N802
        assert self.captured is None, "a stream that is being captured cannot be waited for"
        while self.queues[stream]:
            self.queues[stream].pop(0)()

    def _cudaStreamBeginCapture(self, stream: int, mode: Any) -> None:  # noqa: N802
        assert isinstance(mode, self.cudaStreamCaptureMode) and not self.queues[stream]
        self.captured = []

    def _cudaStreamEndCapture(self, stream: int) -> list[Callable[[], None]]:  # noqa: N802
        captured, self.captured = self.captured, None
        assert captured is not None
        return captured

    def _cudaGraphInstantiate(self, graph: Any, flags: int) -> list[Callable[[], None]]:  # noqa: N802
        return list(graph)

    def _cudaGraphLaunch(self, executable: list[Callable[[], None]], stream: int) -> None:  # noqa: N802
        self.queues[stream].extend(executable)

    def _cudaGraphDestroy(self, graph: Any) -> None:  # noqa: N802
        return None

    _cudaGraphExecDestroy = _cudaGraphDestroy  # noqa: N815


class Machine:
    """A machine with a GPU: a library and CUDA, whose engines compute what their model says in ONNX Runtime.

    The models are those of the tests of the station: uint8 frames (N, 8, 8, 1) "image" in, three "logits" out.
    """

    def __init__(self, library: Library, cuda: Cuda) -> None:
        self.library, self.cuda = library, cuda
        self.profile: list[tuple[int, ...]] = []
        self.timings = b""
        self.compiled: list[bytes] = []
        library.behave = {
            "INetworkDefinition.num_inputs": 1,
            "ITensor.name": "image",
            "ITensor.shape": (-1, 8, 8, 1),
            "OnnxParser.parse": self._parse,
            "OnnxParser.num_errors": 0,
            "IOptimizationProfile.set_shape": self._set_shape,
            "Builder.build_serialized_network": lambda *_: library.make("IHostMemory", data=MAGIC + self.model),
            "IBuilderConfig.create_timing_cache": lambda _, data: library.make("ITimingCache", data=data),
            "ITimingCache.serialize": lambda cache: library.make("IHostMemory", data=cache.__dict__["data"] + b"."),
            "IBuilderConfig.set_timing_cache": self._set_timing_cache,
            "IBuilderConfig.get_timing_cache": lambda config: config.__dict__["timings"],
            "Runtime.get_engine_validity": lambda *_: (library.EngineValidity.VALID, 0),
            "Runtime.deserialize_cuda_engine": self._deserialise,
            "IRuntimeConfig.create_runtime_cache": lambda _: library.make("IRuntimeCache", data=b""),
            "IRuntimeCache.deserialize": self._deserialise_kernels,
            "IRuntimeCache.serialize": lambda cache: library.make("IHostMemory", data=cache.__dict__["data"]),
            "IRuntimeConfig.set_runtime_cache": self._set_kernels,
            "ICudaEngine.num_io_tensors": 2,
            "ICudaEngine.get_tensor_name": lambda _, index: ("image", "logits")[index],
            "ICudaEngine.get_tensor_mode": self._mode,
            "ICudaEngine.get_tensor_dtype": self._dtype,
            "ICudaEngine.get_tensor_shape": lambda _, name: {"image": (-1, 8, 8, 1), "logits": (-1, 3)}[name],
            "ICudaEngine.get_tensor_profile_shape": lambda *_: self.profile,
            "ICudaEngine.create_execution_context": self._create_context,
            "IExecutionContext.set_input_shape": self._set_input_shape,
            "IExecutionContext.set_tensor_address": self._set_address,
            "IExecutionContext.execute_async_v3": self._execute,
        }

    def _parse(self, parser: Any, model: bytes) -> bool:
        self.model = model
        return True

    def _set_shape(self, profile: Any, name: str, *shapes: tuple[int, ...]) -> None:
        assert name == "image"
        self.profile = list(shapes)

    def _set_timing_cache(self, config: Any, cache: Any, ignore: bool) -> bool:
        config.__dict__["timings"] = cache
        self.timings = cache.__dict__["data"]
        return not self.timings.startswith(b"other")

    def _deserialise(self, runtime: Any, plan: bytes) -> Any:
        assert plan.startswith(MAGIC)
        return self.library.make("ICudaEngine", model=plan.removeprefix(MAGIC))

    def _deserialise_kernels(self, cache: Any, data: bytes) -> bool:
        if not data.startswith(KERNEL):
            return False
        cache.__dict__["data"] = data
        return True

    def _set_kernels(self, config: Any, cache: Any) -> bool:
        config.__dict__["kernels"] = cache
        return True

    def _create_context(self, engine: Any, config: Any = None) -> Any:
        kernels = None if config is None else config.__dict__.get("kernels")
        return self.library.make("IExecutionContext", engine=engine, kernels=kernels)

    def _mode(self, engine: Any, name: str) -> Any:
        modes = self.library.TensorIOMode
        return {"image": modes.INPUT, "logits": modes.OUTPUT}[name]

    def _dtype(self, engine: Any, name: str) -> Any:
        kinds = self.library.DataType
        return {"image": kinds.UINT8, "logits": kinds.FLOAT}[name]

    def _set_input_shape(self, context: Any, name: str, shape: tuple[int, ...]) -> bool:
        context.__dict__["shape"] = shape
        return True

    def _set_address(self, context: Any, name: str, address: int) -> bool:
        assert address in self.cuda.memory
        context.__dict__[name] = address
        return True

    def _compile(self, cache: dict[str, Any], kernel: bytes) -> None:
        """One kernel for every shape."""
        if kernel not in cache["data"]:
            cache["data"] += kernel
            self.compiled.append(kernel)

    def _execute(self, context: Any, stream: int) -> bool:
        state = context.__dict__
        if state["kernels"] is not None:
            self._compile(state["kernels"].__dict__, KERNEL + repr(state["shape"]).encode())
        network = OnnxRunner(state["engine"].__dict__["model"], CONTRACT, runtime="onnxruntime-cpu", threads=1)

        def work() -> None:
            size = int(np.prod(state["shape"]))
            frames = np.frombuffer((ctypes.c_uint8 * size).from_address(state["image"]), np.uint8)
            logits = network.infer(frames.reshape(state["shape"]))
            ctypes.memmove(state["logits"], logits.ctypes.data, logits.nbytes)

        self.cuda.queue(stream, work)
        return True


def installed(patch: pytest.MonkeyPatch, record: str, cuda: Cuda | None = None) -> Machine:
    """Put a library and CUDA where an import finds them."""
    machine = Machine(Library(record), cuda or Cuda())
    bindings = types.ModuleType("cuda.bindings")
    bindings.runtime = machine.cuda  # type: ignore[attr-defined]
    modules: dict[str, types.ModuleType] = {"cuda": types.ModuleType("cuda"), "cuda.bindings": bindings}
    if record.startswith("tensorrt-rtx"):
        modules |= {"onnxruntime_ep_nv_tensorrt_rtx": types.ModuleType("x"), "tensorrt_rtx_bindings": machine.library}
    else:
        modules |= {"tensorrt": machine.library}
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None)
        patch.setitem(sys.modules, name, module)
    return machine
