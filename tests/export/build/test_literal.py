from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from export.build.literal import literal_logits
from export.build.precision import to_fp16
from export.build.quantise import calibrate, quantise
from export.runtime.decision import softmax
from tests.graphs import frames, residual


@pytest.mark.parametrize("calibration", ["min-max", "percentile 99.9"])
def test_a_quantised_graph_is_computed_as_the_standard_says(calibration: str, tmp_path: Path) -> None:
    model = quantise(residual(), calibrate(residual(), frames(64), calibration, tmp_path), "tensorrt")
    x = frames(70, seed=1)  # more than a batch
    (expected,) = ReferenceEvaluator(onnx.load_from_string(model)).run(None, {"frame": x})
    found = literal_logits(model, x)
    assert found.shape == (70, 3)
    own, quantisation = np.abs(softmax(found) - softmax(expected)), softmax(literal_logits(residual(), x))
    assert own.mean() < 0.1 * np.abs(quantisation - softmax(expected)).mean()  # a rounding here and there


def test_a_float16_graph_overflows_as_it_would_on_a_gpu() -> None:
    assert np.isfinite(literal_logits(to_fp16(residual()), frames(4))).all()
    assert not np.isfinite(literal_logits(to_fp16(residual(gain=2e5)), frames(4))).all()
