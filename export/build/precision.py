"""Precision of an ONNX model: what it computes in, and float16 of a float32 one. It lives in the graph alone."""

from typing import Final, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.build.toolbox import quiet, toolbox

Precision = Literal["fp32", "fp16", "int8"]
SMALLEST_HALF: Final = 5.96e-08  # subnormal; what is smaller is taken for it
QDQ: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})


def precision_of(model: bytes) -> Precision:
    """What a serialised model computes in, read off its graph: int8 if it quantises, else the type of its weights."""
    graph = onnx.load_model_from_string(model).graph
    if any(node.op_type in QDQ for node in graph.node):
        return "int8"
    return "fp16" if any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer) else "fp32"


def to_fp16(model: bytes) -> bytes:
    """Return a float32 model in float16: weights and all between the uint8 frames and the float32 logits.

    The same bytes for the same model. Weights beyond float16's range become its ends.
    """
    with quiet():
        converted = toolbox().convert_float_to_float16(
            onnx.load_model_from_string(model), keep_io_types=True, min_positive_val=SMALLEST_HALF
        )
    return serialised(converted)


def serialised(model: onnx.ModelProto) -> bytes:
    """Return the bytes of a converted model without the notes of its converter, checked in full.

    Raises onnx.checker.ValidationError for a model that is not valid.
    """
    del model.metadata_props[:]
    del model.graph.value_info[:]  # inferred again by whoever loads it
    model.producer_name = model.producer_version = ""
    for part in (*model.graph.node, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def as_rounded_to_fp16(model: bytes) -> bytes:
    """Return a float32 model that rounds every value as a GPU does that runs a float16 model, with sums in float32.

    ONNX Runtime's CPU provider computes a float16 model in float32 without rounding between its nodes, so there it
    would neither overflow nor differ: this is what such a model is judged by where it cannot run in float16.
    """
    graph_model = onnx.load_model_from_string(model)
    graph = graph_model.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
        (name,) = node.output
        node.output[0] = f"{name}/exact"
        nodes += [
            node,
            helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    return serialised(graph_model)
