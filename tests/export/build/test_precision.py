import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch.nn import functional

from export.build.precision import as_rounded_to_fp16, precision_of, to_fp16
from export.build.quantise import CALIBRATIONS, calibrate, quantise
from export.runtime.decision import softmax
from tests.graphs import MEAN, SCALE, frames, residual

PROJECT = Path(__file__).parents[3]
QUIET = """
import hashlib, logging, sys
from pathlib import Path
from export.build.precision import to_fp16
from export.build.quantise import CALIBRATIONS, calibrate, quantise
from tests.graphs import frames, residual
path, model, scratch = list(sys.path), residual(), Path(sys.argv[1])
made = [to_fp16(model)]
for name in CALIBRATIONS:
    made += [quantise(model, calibrate(model, frames(40), name, scratch), flavour) for flavour in ("cpu", "tensorrt")]
assert sys.path == path, "the import path was changed"
assert logging.getLogger().handlers == [], "a log handler was installed"
assert list(scratch.iterdir()) == [], "files were left"
print(hashlib.sha256(b"".join(made)).hexdigest())
"""


def run(model: bytes, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options).run(None, {"frame": x})[0]


def tensors(model: bytes) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(model).graph.initializer}


def in_half(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """The network by torch, every value rounded to half precision when it is made, sums in float32."""
    w = {name: torch.from_numpy(value.astype(np.float32)) for name, value in weights.items() if name != "axes"}

    def half(t: torch.Tensor) -> torch.Tensor:
        return t.half().float()

    t = half(half(torch.from_numpy(x.astype(np.float32)).permute(0, 3, 1, 2)) - w["mean"])
    t = half(t * w["scale"])
    a = half(functional.conv2d(t, w["stem.w"], w["stem.b"], padding=1)).relu()
    b = half(functional.conv2d(a, w["one.w"], w["one.b"], padding=1)).relu()
    c = half(half(functional.conv2d(b, w["two.w"], w["two.b"], padding=1)) + a).relu()
    return half(half(c.mean((2, 3))) @ w["head.w"] + w["head.b"]).numpy()


def test_float16_keeps_what_the_station_feeds_and_reads_and_halves_the_file() -> None:
    model = residual()
    half = to_fp16(model)
    graph = onnx.load_from_string(half).graph
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert graph.node[0].op_type == "Cast"
    assert sum(t.nbytes for n, t in tensors(half).items() if n != "axes") == sum(
        t.nbytes // 2 for n, t in tensors(model).items() if n != "axes"
    )
    x = frames(50)
    assert run(half, x).dtype == np.float32
    assert np.abs(softmax(run(half, x)) - softmax(run(model, x))).max() < 5e-3
    for name, value in tensors(model).items():
        if name != "axes":
            assert np.array_equal(tensors(half)[name], value.astype(np.float16))


def test_the_same_model_gives_the_same_bytes() -> None:
    assert to_fp16(residual()) == to_fp16(residual())
    assert to_fp16(residual()) != to_fp16(residual(seed=1))


@pytest.mark.parametrize("seed", [0, 1])
def test_rounding_is_that_of_every_value(seed: int) -> None:
    half, x = to_fp16(residual(seed)), frames(20)
    expected = in_half(x, tensors(half))
    assert not np.array_equal(expected, run(residual(seed), x))
    # A sum taken in another order may round to the neighbour; the file itself, unrounded, is farther off.
    assert np.abs(run(as_rounded_to_fp16(half), x) - expected).max() <= 2e-3
    assert np.mean(run(as_rounded_to_fp16(half), x) == expected) > 0.7
    assert np.mean(run(half, x) == expected) < 0.1


def test_an_overflow_shows_that_the_cpu_would_hide() -> None:
    half, x = to_fp16(residual(gain=2e5)), frames(4)
    assert np.isfinite(run(half, x)).all()
    assert not np.isfinite(run(as_rounded_to_fp16(half), x)).all()


def test_a_model_tells_its_precision(tmp_path: Path) -> None:
    model = residual()
    int8 = quantise(model, calibrate(model, frames(8), "min-max", tmp_path), "cpu")
    assert [precision_of(m) for m in (model, to_fp16(model), int8)] == ["fp32", "fp16", "int8"]


def test_conversions_say_nothing_leave_nothing_and_give_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    said = []
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", QUIET, str(tmp_path / seed)],
            cwd=PROJECT,
            env={"PATH": "", "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        said.append(result.stdout)
    assert said[0] == said[1]
    assert len(said[0]) == 65
    assert len(CALIBRATIONS) == 4


def test_the_normalisation_of_the_toy_is_the_one_told() -> None:
    assert tensors(residual())["mean"] == np.float32(MEAN)
    assert tensors(residual())["scale"] == np.float32(SCALE)
