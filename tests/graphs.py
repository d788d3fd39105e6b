"""A small residual ONNX network as the exporter writes them: frames in, logits out."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

SIDE, CLASSES = 12, 3
MEAN, SCALE = 120.0, 1 / 60


def residual(seed: int = 0, gain: float = 1.0) -> bytes:
    """uint8 (N, 12, 12, 1) to logits (N, 3): stem, one residual block, pooling, classifier; `gain` scales the stem."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> TensorProto:
        spread = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        values = rng.normal(0, spread, shape) * (gain if name.startswith("stem") else 1)
        return numpy_helper.from_array(values.astype(np.float32), name)

    def conv(x: str, name: str, y: str) -> list[object]:
        return [helper.make_node("Conv", [x, f"{name}.w", f"{name}.b"], [y], pads=[1] * 4, name=name)]

    nodes = [
        helper.make_node("Cast", ["frame"], ["real"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2], name="transpose"),
        helper.make_node("Sub", ["planes", "mean"], ["centred"], name="sub"),
        helper.make_node("Mul", ["centred", "scale"], ["x"], name="mul"),
        *conv("x", "stem", "stem.y"),
        helper.make_node("Relu", ["stem.y"], ["a"], name="stem.relu"),
        *conv("a", "one", "one.y"),
        helper.make_node("Relu", ["one.y"], ["b"], name="one.relu"),
        *conv("b", "two", "two.y"),
        helper.make_node("Add", ["two.y", "a"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["c"], name="add.relu"),
        helper.make_node("ReduceMean", ["c", "axes"], ["pooled"], keepdims=0, name="pool"),
        helper.make_node("Gemm", ["pooled", "head.w", "head.b"], ["logits"], name="head"),
    ]
    tensors = [
        numpy_helper.from_array(np.array(MEAN, np.float32), "mean"),
        numpy_helper.from_array(np.array(SCALE, np.float32), "scale"),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
        weight("stem.w", 8, 1, 3, 3), weight("stem.b", 8),
        weight("one.w", 8, 8, 3, 3), weight("one.b", 8),
        weight("two.w", 8, 8, 3, 3), weight("two.b", 8),
        weight("head.w", 8, CLASSES), weight("head.b", CLASSES),
    ]  # fmt: skip
    body = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, ["n", SIDE, SIDE, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        tensors,
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def frames(number: int, seed: int = 0) -> np.ndarray:
    """Frames uint8 (N, 12, 12, 1) of noise about grey levels of their own."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(40, 200, (number, 1, 1, 1))
    return np.clip(rng.normal(level, 30, (number, SIDE, SIDE, 1)), 0, 255).astype(np.uint8)
