"""A real TensorRT-RTX engine where the extra `rtx` is installed; elsewhere the refusal that names it."""

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.build.tensorrt import build_engine, header_version
from export.runtime.errors import EnvironmentLacks, GateError

PACKAGES = ("onnxruntime_ep_nv_tensorrt_rtx", "tensorrt_rtx_bindings")
INSTALLED = all(importlib.util.find_spec(name) for name in PACKAGES)
needs_rtx = pytest.mark.skipif(not INSTALLED, reason="the extra rtx is not installed")


def model(kind: str = "Relu") -> bytes:
    """A small network from bytes to logits, with the operations a delivered graph begins and ends with."""
    rng = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(rng.standard_normal((8, 1, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(rng.standard_normal((2, 8)).astype(np.float32), "v"),
        numpy_helper.from_array(np.zeros(2, np.float32), "b"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
    ]
    nodes = [
        helper.make_node("Cast", ["frame"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node(kind, ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "v", "b"], ["logits"], transB=1),
    ]
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, ["batch", 16, 16, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        tensors,
    )
    made = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(made.SerializeToString())


def test_the_toy_model_is_valid() -> None:
    onnx.checker.check_model(onnx.load_from_string(model()), full_check=True)


@pytest.mark.parametrize("runtime", ["tensorrt", "onnxruntime-cuda"])
def test_an_engine_of_another_kind_is_not_built_and_says_so(runtime: str) -> None:
    with pytest.raises(
        EnvironmentLacks, match=rf"engines for runtime '{runtime}' are not built.*export\.also_for"
    ) as caught:
        build_engine(model(), runtime, ())
    assert caught.value.exit_code == 3


@pytest.mark.skipif(INSTALLED, reason="the extra rtx is installed")
def test_without_the_extra_the_refusal_names_it() -> None:
    with pytest.raises(EnvironmentLacks, match=r"TensorRT-RTX is not installed.*edge-model-factory\[rtx\]") as caught:
        build_engine(model(), "tensorrt-rtx", ())
    assert caught.value.exit_code == 3


@needs_rtx
@pytest.mark.parametrize("capabilities", [(), ("8.6",)])
def test_an_engine_is_built_without_a_gpu(capabilities: tuple[str, ...]) -> None:
    engine = build_engine(model(), "tensorrt-rtx", capabilities)
    assert engine.plan[:4] == b"vtrt"
    assert len(engine.plan) > 1000
    assert engine.version == "1.7.1.116"
    assert header_version(engine.plan) == (1, 7, 1, 116)
    assert engine.targets == capabilities


@needs_rtx
def test_a_capability_that_is_unknown_is_refused() -> None:
    with pytest.raises(
        GateError, match=r"the TensorRT-RTX builder refused the model: found no compute capability 3\.7"
    ):
        build_engine(model(), "tensorrt-rtx", ("3.7",))


@needs_rtx
@pytest.mark.parametrize("data", [b"no model at all", model("NoSuchOperation")], ids=["not onnx", "unknown operation"])
def test_a_model_the_parser_refuses_is_refused_in_its_words(data: bytes) -> None:
    with pytest.raises(GateError, match=r"the TensorRT-RTX parser refused the model: found (?!no reason)") as caught:
        build_engine(data, "tensorrt-rtx", ())
    assert caught.value.exit_code == 1
