"""Record what the real bindings of TensorRT offer, without the libraries, a GPU or a driver.

    python -m tests.export.api.record

The bindings come from PyPI; the libraries they link against, which PyPI does not hold, are replaced by empty ones that
export the same few symbols: enough to import the bindings and read every signature. Needs gcc, Linux on x86-64 and pip.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("tensorrt.json")

# Package, module, libraries with the symbols that the bindings want of them.
_TENSORRT = {
    "libnvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "libnvinfer_plugin": ("initLibNvInferPlugins",),
    "libnvonnxparser": ("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
}
_RTX = {
    "libtensorrt_rtx": _TENSORRT["libnvinfer"],
    "libtensorrt_onnxparser_rtx": _TENSORRT["libnvonnxparser"],
}
PACKAGES = {
    "tensorrt 10.12": ("tensorrt_cu12_bindings==10.12.0.36", "tensorrt_bindings", _TENSORRT, 10),
    "tensorrt 10.16": ("tensorrt_cu13_bindings==10.16.1.11", "tensorrt_bindings", _TENSORRT, 10),
    "tensorrt 11.0": ("tensorrt_cu13_bindings==11.0.0.114", "tensorrt_bindings", _TENSORRT, 11),
    "tensorrt 11.4": ("tensorrt_cu13_bindings==11.4.0.106", "tensorrt_bindings", _TENSORRT, 11),
    "tensorrt-rtx 1.7": ("tensorrt_rtx_cu13_bindings==1.7.1.116", "tensorrt_rtx_bindings", _RTX, 1),
}
CUDA = {"cuda 12.9": "cuda-bindings==12.9.10", "cuda 13.5": "cuda-bindings==13.5.0"}

# What the builder and the runner use, and members whose absence tells the versions apart (11 took them away).
CLASSES = {
    "Builder": (
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
        "platform_has_fast_fp16",
    ),
    "IBuilderConfig": (
        "add_optimization_profile",
        "set_flag",
        "hardware_compatibility_level",
        "create_timing_cache",
        "set_timing_cache",
        "get_timing_cache",
        "num_compute_capabilities",
        "set_compute_capability",
        "progress_monitor",
        "int8_calibrator",
        "algorithm_selector",
    ),
    "INetworkDefinition": ("num_inputs", "get_input"),
    "ITensor": ("name", "shape", "dtype", "dynamic_range"),
    "IOptimizationProfile": ("set_shape",),
    "ITimingCache": ("serialize",),
    "IHostMemory": ("nbytes",),
    "OnnxParser": ("parse", "num_errors", "get_error", "supports_model"),
    "ParserError": ("desc",),
    "ILogger": ("log",),
    "Runtime": ("deserialize_cuda_engine", "engine_host_code_allowed", "get_engine_validity"),
    "ICudaEngine": (
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_dtype",
        "get_tensor_shape",
        "get_tensor_profile_shape",
        "create_execution_context",
        "create_runtime_config",
        "create_execution_context_without_device_memory",
        "device_memory_size",
    ),
    "IExecutionContext": (
        "set_input_shape",
        "infer_shapes",
        "set_tensor_address",
        "execute_async_v3",
        "is_stream_capturable",
    ),
    "IRuntimeConfig": ("dynamic_shapes_kernel_specialization_strategy", "create_runtime_cache", "set_runtime_cache"),
    "IRuntimeCache": ("deserialize", "serialize"),
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
    "IInt8EntropyCalibrator2": (),
}
ENUMS = (
    "ILogger.Severity",
    "NetworkDefinitionCreationFlag",
    "BuilderFlag",
    "HardwareCompatibilityLevel",
    "TensorIOMode",
    "DataType",
    "ComputeCapability",
    "EngineValidity",
    "EngineInvalidityDiagnostics",
    "DynamicShapesKernelSpecializationStrategy",
    "ExecutionContextAllocationStrategy",
    "CalibrationAlgoType",
)
CUDA_FUNCTIONS = (
    "cudaGetDeviceCount",
    "cudaDeviceGetAttribute",
    "cudaGetDeviceProperties",
    "cudaDriverGetVersion",
    "cudaGetErrorName",
    "cudaGetErrorString",
    "cudaMalloc",
    "cudaFree",
    "cudaHostAlloc",
    "cudaFreeHost",
    "cudaMemcpyAsync",
    "cudaStreamCreateWithFlags",
    "cudaStreamDestroy",
    "cudaStreamSynchronize",
    "cudaStreamBeginCapture",
    "cudaStreamEndCapture",
    "cudaGraphInstantiate",
    "cudaGraphLaunch",
    "cudaGraphExecDestroy",
    "cudaGraphDestroy",
)
CUDA_ENUMS = ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode", "cudaDeviceAttr")
CUDA_CONSTANTS = ("cudaStreamNonBlocking", "cudaHostAllocDefault")


def signatures(text: str, name: str) -> list[str]:
    """The signatures in a docstring of pybind11, one an overload, without `self` and module names."""
    found = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) -> (.+)$", text or "", re.MULTILINE)
    plain = [f"({inside}) -> {returned}" for inside, returned in found if inside != "*args, **kwargs"]
    return [
        re.sub(r"[\w.]*\.(?=\w+)(?!\d)", "", re.sub(r"\(self: [^,)]+(, )?|\(arg0: [^,)]+\)", "(", one)) for one in plain
    ]


def _member(kind: type, name: str) -> str | list[str]:
    """ "read" or "write" for a property, the signatures of a method."""
    value = getattr(kind, name)
    if isinstance(value, property):
        return "read" if value.fset is None else "write"
    return signatures(value.__doc__, name)


def _enum(trt: types.ModuleType, path: str) -> dict[str, int]:
    value: Any = trt
    for part in path.split("."):
        value = getattr(value, part, None)
    return {} if value is None else {name: int(member) for name, member in value.__members__.items()}


def describe(trt: types.ModuleType) -> dict[str, Any]:
    """What of the names above a module of TensorRT has."""
    classes = {}
    for name, members in CLASSES.items():
        kind = getattr(trt, name, None)
        if kind is None:
            continue
        found = {member: _member(kind, member) for member in members if hasattr(kind, member)}
        classes[name] = {"init": signatures(kind.__init__.__doc__, "__init__"), "members": found}
    enums = {path: _enum(trt, path) for path in ENUMS}
    return {"version": trt.__version__, "classes": classes, "enums": {k: v for k, v in enums.items() if v}}


def describe_cuda(runtime: types.ModuleType, version: str) -> dict[str, Any]:
    """The functions, enumerations and constants above of `cuda.bindings.runtime`."""
    docs = {name: str(getattr(runtime, name).__doc__).strip().partition("\n")[0] for name in CUDA_FUNCTIONS}
    wanted = ("cudaSuccess", "cudaErrorInsufficientDriver", "cudaErrorNoDevice", "cudaErrorMemoryAllocation")
    wanted += ("cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor")
    enums = {
        name: {
            key: int(value)
            for key, value in getattr(runtime, name).__members__.items()
            if name in ("cudaMemcpyKind", "cudaStreamCaptureMode") or key in wanted
        }
        for name in CUDA_ENUMS
    }
    constants = {name: int(getattr(runtime, name)) for name in CUDA_CONSTANTS}
    return {"version": version, "functions": docs, "enums": enums, "constants": constants}


def _fetch(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), requirement]
    subprocess.run([*command, "--disable-pip-version-check"], check=True)


def _empty_libraries(libraries: dict[str, tuple[str, ...]], major: int, folder: Path) -> None:
    for name, symbols in libraries.items():
        source = "\n".join(f"void *{symbol}(void) {{ return 0; }}" for symbol in symbols)
        soname = f"{name}.so.{major}"
        options = ["-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", str(folder / soname), "-x", "c", "-"]
        subprocess.run(["gcc", *options], input=source.encode(), check=True)


def _described(module: str, folder: Path, version: str) -> dict[str, Any]:
    """Describe a module in a process of its own, since two versions cannot live in one."""
    own = {"PYTHONPATH": os.pathsep.join([str(folder), str(Path.cwd())]), "LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, "-m", "tests.export.api.record", module, version]
    done = subprocess.run(command, env=os.environ | own, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Write the record."""
    record = {}
    for name, (requirement, module, libraries, major) in PACKAGES.items():
        with tempfile.TemporaryDirectory() as work:
            _fetch(requirement, Path(work))
            _empty_libraries(libraries, major, Path(work))
            record[name] = _described(module, Path(work), requirement.partition("==")[2])
    for name, requirement in CUDA.items():
        with tempfile.TemporaryDirectory() as work:
            _fetch(requirement, Path(work))
            record[name] = _described("cuda.bindings.runtime", Path(work), requirement.partition("==")[2])
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        found = importlib.import_module(sys.argv[1])
        cuda = sys.argv[1].startswith("cuda")
        print(json.dumps(describe_cuda(found, sys.argv[2]) if cuda else describe(found)))
    else:
        main()
