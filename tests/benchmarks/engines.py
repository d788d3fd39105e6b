"""TensorRT-RTX engines built on this machine: seconds, sizes, and what the header of each plan says.

python -m tests.benchmarks engines
"""

import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from export.build.onnx import INPUT, export
from export.runtime.engine_builder import EngineOptions, build_engine
from export.runtime.tensorrt_library import header_version
from factory.cost.count import count
from factory.spaces.network import build
from factory.spaces.plan import Input, Plan
from factory.spaces.residual import plan, random_genome
from factory.swapout.collapse import collapse

TARGETS: tuple[tuple[str, ...], ...] = ((), ("8.6",), ("8.9",), ("12.0",), ("8.6", "8.9", "12.0"))
BATCHES = ((1, 1, 1), (1, 1, 16))
PICTURES = 32
BUILDS = 3


class _Frames(CalibrationDataReader):
    """Smooth random textures, one a call: a builder's time does not depend on what a picture shows."""

    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(0)
        self.frames = iter(rng.integers(0, 256, (PICTURES, 1, size, size, 1), np.uint8))

    def get_next(self) -> dict[str, Any] | None:
        frame = next(self.frames, None)
        return None if frame is None else {INPUT: frame}


def _int8(model: bytes, size: int) -> bytes:
    """Q/DQ as TensorRT takes it: symmetric int8, pairs at the weights too, no quantised bias."""
    with tempfile.TemporaryDirectory() as work:
        plain, ready, done = (Path(work) / name for name in ("plain.onnx", "ready.onnx", "int8.onnx"))
        plain.write_bytes(model)
        quant_pre_process(plain, ready)
        quantize_static(
            ready,
            done,
            _Frames(size),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["Conv", "Gemm", "Add"],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "AddQDQPairToWeight": True,
                "QuantizeBias": False,
            },
        )
        return done.read_bytes()


def _variants(network: Plan, size: int) -> Iterator[tuple[str, bytes]]:
    model = export(collapse(build(network, None)).float(), [0.5], [0.2], (size, size, 1))
    yield "fp32", model
    half = convert_float_to_float16(onnx.load_from_string(model), keep_io_types=True)
    onnx.checker.check_model(half, full_check=True)
    yield "fp16", half.SerializeToString()
    yield "int8", _int8(model, size)


def _networks() -> Iterator[tuple[Plan, int]]:
    """One such as is delivered, below a megabyte, and the largest of many at the size of a photograph."""
    for size, most in ((64, 250_000), (224, 10**9)):
        rng, picture = np.random.default_rng(0), Input(size, size, 1)
        drawn = [plan(random_genome(rng, picture), picture, 2) for _ in range(200)]
        yield max((one for one in drawn if count(one).params <= most), key=lambda one: count(one).params), size


def _timed(model: bytes, options: EngineOptions) -> tuple[float, int]:
    """The shortest of a few builds in seconds, and the plan's bytes; its header must name the library's version."""
    best, size = float("inf"), 0
    for _ in range(BUILDS):
        start = perf_counter()
        built = build_engine(model, options)
        best, size = min(best, perf_counter() - start), len(built.plan)
        assert header_version(built.plan) == built.version
    return best, size


def main() -> None:
    """Print a row for each network, precision and batch: seconds by target, and the engine's size over all of them."""
    names = [", ".join(targets) or "portable" for targets in TARGETS]
    print(f"| network | precision | ONNX MB | batch | {' | '.join(f'{name}, s' for name in names)} | engine MB |")
    print("|---|---|---|---|" + "---|" * len(names) + "---|")
    for network, size in _networks():
        who = f"{count(network).params / 1e6:.2f} M, {size} x {size}"
        for (precision, model), batch in product(list(_variants(network, size)), BATCHES):
            built = [
                _timed(model, EngineOptions(runtime="tensorrt-rtx", batch=batch, capabilities=targets))
                for targets in TARGETS
            ]
            sizes = [bytes_ / 1e6 for _, bytes_ in built]
            cells = [f"{seconds:.2f}" for seconds, _ in built] + [f"{min(sizes):.2f} to {max(sizes):.2f}"]
            one = "1" if batch[2] == 1 else "1 to 16"
            print(f"| {who} | {precision} | {len(model) / 1e6:.2f} | {one} | {' | '.join(cells)} |", flush=True)
    print(f"every header names the library's version, {BUILDS} builds each")
