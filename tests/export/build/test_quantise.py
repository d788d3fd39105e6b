import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from export.build.quantise import CALIBRATIONS, Flavour, calibrate, quantise
from export.runtime.decision import softmax
from export.runtime.engine_builder import EngineOptions, build_engine
from export.runtime.ort_runner import _adds_exactly
from tests.graphs import MEAN, SCALE, frames, residual

BOTH: tuple[Flavour, ...] = ("cpu", "tensorrt")
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="the extra rtx is not installed"
)


def run(model: bytes, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options).run(None, {"frame": x})[0]


def int8(tmp_path: Path, flavour: Flavour, calibration: str = "min-max", number: int = 64) -> onnx.ModelProto:
    ranges = calibrate(residual(), frames(number), calibration, tmp_path)
    return onnx.load_from_string(quantise(residual(), ranges, flavour))


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def readers(model: onnx.ModelProto, name: str) -> list[str]:
    return [node.op_type for node in model.graph.node if name in node.input]


@pytest.mark.parametrize("flavour", BOTH)
@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_scores_stay_near_on_pictures_that_did_not_calibrate(
    flavour: Flavour, calibration: str, tmp_path: Path
) -> None:
    model, x = int8(tmp_path, flavour, calibration), frames(200, seed=1)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    difference = np.abs(softmax(run(model.SerializeToString(), x)) - softmax(run(residual(), x))).max()
    assert 0 < difference < 0.15
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not _adds_exactly(), reason="this processor has neither VNNI nor AMX")
def test_integer_kernels_are_exact_on_this_processor_without_being_told(tmp_path: Path) -> None:
    model, x = int8(tmp_path, "cpu").SerializeToString(), frames(200, seed=1)
    told = onnxruntime.SessionOptions()
    told.add_session_config_entry("session.x64quantprecision", "1")
    exact = onnxruntime.InferenceSession(model, told).run(None, {"frame": x})[0]
    assert np.array_equal(run(model, x), exact)


def test_weights_are_within_half_a_step_a_channel(tmp_path: Path) -> None:
    model, exact = tensors(int8(tmp_path, "cpu")), tensors(onnx.load_from_string(residual()))
    for name in ("stem", "one", "two"):
        own, scale = model[f"{name}.w_quantized"], model[f"{name}.w_scale"]
        assert own.dtype == np.int8
        assert scale.shape == (8,)
        assert np.allclose(scale, np.abs(exact[f"{name}.w"]).max(axis=(1, 2, 3)) / 127, rtol=1e-2)
        error = own * scale[:, None, None, None] - exact[f"{name}.w"]
        assert (np.abs(error) <= 0.501 * scale[:, None, None, None]).all()


def test_min_max_is_the_range_of_the_frames(tmp_path: Path) -> None:
    own = tensors(int8(tmp_path, "cpu", number=70))  # more than a batch, and not a multiple of it
    x = (frames(70).astype(np.float64) - MEAN) * SCALE
    assert own["x_scale"] == pytest.approx((x.max() - x.min()) / 255, rel=1e-5)
    assert own["x_zero_point"].dtype == np.uint8
    assert int(own["x_zero_point"]) == round(-x.min() / ((x.max() - x.min()) / 255))


def test_a_percentile_cuts_what_lies_outside(tmp_path: Path) -> None:
    scales = [tensors(int8(tmp_path, "cpu", name))["a_scale"] for name in ("min-max", "percentile 99.99")]
    tighter = tensors(int8(tmp_path, "cpu", "percentile 99.9"))["a_scale"]
    assert scales[0] > scales[1] > tighter > 0


def test_for_the_cpu_a_convolution_its_relu_and_bias_are_one_integer_kernel(tmp_path: Path) -> None:
    model = int8(tmp_path, "cpu")
    operations = [node.op_type for node in model.graph.node]
    assert "Relu" not in operations
    for name in ("stem", "one", "two"):
        assert tensors(model)[f"{name}.b_quantized"].dtype == np.int32
    for node in model.graph.node:
        if node.op_type in {"Conv", "Add"}:
            assert readers(model, node.output[0]) == ["QuantizeLinear"]
    (head,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    assert list(head.input) == ["pooled", "head.w", "head.b"]


def test_for_tensorrt_all_is_symmetric_and_nothing_stands_between_what_it_fuses(tmp_path: Path) -> None:
    model = int8(tmp_path, "tensorrt")
    assert all(t.data_type != TensorProto.INT32 for t in model.graph.initializer)
    points = [value for name, value in tensors(model).items() if name.endswith("zero_point")]
    assert len(points) >= 6
    assert all(value.dtype == np.int8 and not value.any() for value in points)
    made = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type == "Relu":
            assert made[node.input[0]].op_type in {"Conv", "Add"}
        if node.op_type == "Conv":
            assert [made[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
            assert node.input[2] in tensors(model)  # the bias stays as it was
        if node.op_type == "Add":
            assert [made[name].op_type for name in node.input] == ["DequantizeLinear"] * 2


@needs_rtx
def test_the_tensorrt_flavour_becomes_an_engine_and_the_other_is_refused(tmp_path: Path) -> None:
    engine = build_engine(int8(tmp_path, "tensorrt").SerializeToString(), EngineOptions(runtime="tensorrt-rtx"))
    assert engine.plan[:4] == b"vtrt"
    with pytest.raises(Exception, match="Int32"):
        build_engine(int8(tmp_path, "cpu").SerializeToString(), EngineOptions(runtime="tensorrt-rtx"))
