"""A model computed as its graph stands, node by node: what is built for another runtime is judged by it here."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.build.onnx import INPUT, OUTPUT
from export.build.precision import as_rounded_to_fp16, precision_of

BATCH = 64


def literal_logits(model: bytes, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits (N, K) of uint8 frames (N, H, W, C) by a model for TensorRT, on one thread of the CPU.

    Without ONNX Runtime's optimiser, which moves and adds roundings where only some nodes are quantised: that changes
    scores as much as the quantisation does. Values of a float16 model are rounded to float16.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    exact = as_rounded_to_fp16(model) if precision_of(model) == "fp16" else model
    session = onnxruntime.InferenceSession(exact, options, providers=["CPUExecutionProvider"])
    batches = [np.ascontiguousarray(frames[i : i + BATCH]) for i in range(0, len(frames), BATCH)]
    return np.concatenate([session.run([OUTPUT], {INPUT: batch})[0] for batch in batches])
