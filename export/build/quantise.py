"""int8 of a float32 ONNX model: static quantisation, Q/DQ nodes in the graph, ranges from the line's own pictures.

Two flavours, since what one runtime computes in integers the other refuses or computes slowly in float:

- "cpu", for ONNX Runtime's CPU provider: uint8 activations, int8 weights a channel, int32 biases; a ReLU disappears
  into the range of its convolution, which then is one integer kernel;
- "tensorrt": symmetric int8 throughout, biases in float32, weights quantised in the graph, and Q/DQ only where a
  convolution or an addition reads, so that convolution, addition and ReLU stay one kernel (NVIDIA, Working with
  quantized types: placement of Q/DQ).

The classifier behind the pooling stays in float32 in both: it costs nothing, and quantised logits would put many parts
on one score, with the threshold between them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, NewType

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from export.build.onnx import INPUT
from export.build.precision import serialised
from export.build.toolbox import quiet, toolbox
from export.runtime.errors import EnvironmentLacks

Flavour = Literal["cpu", "tensorrt"]
Ranges = NewType("Ranges", object)  # of onnxruntime, by tensor

# How the range of an activation follows from its values: all of them, all but the outermost, or the cut after which the
# histogram of 8 bit is nearest to the whole (Migacz, 8-bit inference with TensorRT, GTC 2017).
CALIBRATIONS: Final[Mapping[str, tuple[str, dict[str, float]]]] = {
    "min-max": ("MinMax", {}),
    "percentile 99.99": ("Percentile", {"percentile": 99.99}),
    "percentile 99.9": ("Percentile", {"percentile": 99.9}),
    "entropy": ("Entropy", {"num_bins": 256}),
}
BATCH: Final = 32
_OPERATIONS: Final[Mapping[Flavour, list[str]]] = {"cpu": ["Conv", "Add", "Relu"], "tensorrt": ["Conv", "Add"]}


def calibrate(model: bytes, frames: NDArray[np.uint8], calibration: str, scratch: Path) -> Ranges:
    """Return the range of every activation of a float32 model on frames uint8 (N, H, W, C).

    Args:
        model: serialised, float32.
        frames: as the station feeds them.
        calibration: a key of `CALIBRATIONS`.
        scratch: folder for files that onnxruntime needs meanwhile; none is left.
    """
    tools, (method, options) = toolbox(), CALIBRATIONS[calibration]
    with quiet(), TemporaryDirectory(dir=scratch) as name:
        path = Path(name) / "model.onnx"
        path.write_bytes(model)
        calibrator = tools.create_calibrator(
            path, sorted({op for own in _OPERATIONS.values() for op in own}), str(Path(name) / "augmented.onnx"),
            tools.CalibrationMethod[method], extra_options=options,
        )  # fmt: skip
        for start in range(0, len(frames), BATCH):  # one after another: it keeps every activation of what it is given
            calibrator.collect_data(_Reader(frames[start : start + BATCH]))
        return Ranges(calibrator.compute_data())


def quantise(model: bytes, ranges: Ranges, flavour: Flavour) -> bytes:
    """Return a float32 model in int8; the same bytes for the same model and ranges.

    Raises EnvironmentLacks where this onnxruntime cannot leave biases in float, which TensorRT needs.
    """
    tools, operations, options = toolbox(), list(_OPERATIONS[flavour]), _options(flavour)
    with quiet():
        quantiser = tools.QDQQuantizer(
            onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model)),
            True,  # a channel
            False,  # all 8 bits
            tools.QuantType.QInt8,
            tools.QuantType.QUInt8 if flavour == "cpu" else tools.QuantType.QInt8,
            ranges,
            [],
            [],
            operations,
            options,
        )
        quantiser.quantize_model()
        quantiser.model.topological_sort()
    quantised = quantiser.model.model
    if flavour == "tensorrt" and any(t.data_type == TensorProto.INT32 for t in quantised.graph.initializer):
        raise EnvironmentLacks(
            "this onnxruntime quantises biases, which TensorRT refuses", fix="update onnxruntime to 1.24 or later"
        )
    return serialised(quantised)


def _options(flavour: Flavour) -> dict[str, Any]:
    if flavour == "cpu":
        return {}
    return {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "AddQDQPairToWeight": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": ["Conv", "Add"],
    }


class _Reader:
    """Hands frames to onnxruntime, all at once."""

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = iter([np.ascontiguousarray(frames)])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}
