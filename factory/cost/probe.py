"""The deployed graph of a plan with random weights, in milliseconds instead of the exporter's seconds.

Latency does not depend on the values of weights, so a candidate of the search is timed on this graph, which has the
nodes and shapes of the one that `export.build.onnx` delivers (a test holds the two against each other).
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.build.onnx import INPUT, OPSET, OUTPUT
from factory.spaces.plan import Op, Plan, graph


class _Writer:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) or 1
        value = (self._rng.standard_normal(shape) * (2 / fan_in) ** 0.5).astype(np.float32)
        self.weights.append(numpy_helper.from_array(value, f"w{len(self.weights)}"))
        return str(self.weights[-1].name)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def op(self, op: Op, inputs: list[str], output: str) -> str:
        match op.kind:
            case "conv" if op.conv is not None:
                c = op.conv
                weight = self.weight(c.channels_out, c.channels_in // c.groups, c.kernel, c.kernel)
                return self.node(
                    "Conv",
                    [*inputs, weight, self.weight(c.channels_out)],
                    output,
                    kernel_shape=[c.kernel] * 2,
                    strides=[c.stride] * 2,
                    pads=[c.kernel // 2] * 4,
                    group=c.groups,
                )
            case "relu":
                return self.node("Relu", inputs, output)
            case "add":
                return self.node("Add", inputs, output)
            case "mean":
                axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
                self.weights.append(axes)
                return self.node("ReduceMean", [*inputs, "axes"], output, keepdims=0)
            case _:
                raise ValueError(f"no node for {op.kind}")


def probe(plan: Plan) -> bytes:
    """Serialise the graph: uint8 (N, H, W, C) frames to float32 (N, classes) logits."""
    writer, picture = _Writer(), plan.input
    x = writer.node("Cast", [INPUT], "float", to=TensorProto.FLOAT)
    x = writer.node("Transpose", [x], "planes", perm=[0, 3, 1, 2])
    x = writer.node("Sub", [x, writer.weight(1, picture.channels, 1, 1)], "centred")
    x = writer.node("Mul", [x, writer.weight(1, picture.channels, 1, 1)], "normal")
    names: dict[int, str] = {-1: x}
    *ops, _gemm = graph(plan)
    for index, op in enumerate(ops):
        names[index] = writer.op(op, [names[source] for source in op.inputs], f"x{index}")
    head = [names[len(ops) - 1], writer.weight(plan.classes, plan.features), writer.weight(plan.classes)]
    writer.node("Gemm", head, OUTPUT, transB=1)
    shape: list[str | int | None] = ["batch", picture.height, picture.width, picture.channels]
    body = helper.make_graph(
        writer.nodes,
        "probe",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", plan.classes])],
        writer.weights,
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return bytes(model.SerializeToString())
