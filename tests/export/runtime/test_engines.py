from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from export.runtime.errors import BundleRefused, EnvironmentLacks, UsageError


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)


def test_the_logits_are_the_networks(tiny: SimpleNamespace, frames: np.ndarray) -> None:
    logits = tiny.runner(tiny.network()).infer(frames)
    pooled = ((frames.astype(np.float64) - 128) / 64).mean(axis=(1, 2))
    np.testing.assert_allclose(logits, pooled @ [[-2, 2, 1]] + [0, -0.5, -0.7], atol=1e-5)
    assert logits.dtype == np.float32


def test_the_threads_are_those_the_budget_was_measured_with(tiny: SimpleNamespace) -> None:
    options = tiny.runner(tiny.network(), threads=3)._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)


def test_a_model_of_batch_one_gives_the_same(tiny: SimpleNamespace, frames: np.ndarray) -> None:
    one, any_size = tiny.runner(tiny.network(batch=1)), tiny.runner(tiny.network())
    np.testing.assert_allclose(one.infer(frames), any_size.infer(frames), atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 8, 8, 1), np.float32),
        np.zeros((1, 8, 9, 1), np.uint8),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((0, 8, 8, 1), np.uint8),
    ],
)
def test_frames_of_another_kind_are_refused(tiny: SimpleNamespace, wrong: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"expected uint8 \(N, 8, 8, 1\)"):
        tiny.runner(tiny.network()).infer(wrong)


@pytest.mark.parametrize(
    "changes",
    [{"input_name": "x"}, {"output_name": "x"}, {"frame_shape": (8, 9, 1)}, {"frame_shape": (8, 8, 3)}],
)
def test_a_model_other_than_described_is_refused(tiny: SimpleNamespace, changes: dict[str, Any]) -> None:
    with pytest.raises(BundleRefused, match="not the one its manifest describes"):
        tiny.runner(tiny.network(), **changes)


def test_a_fixed_batch_of_several_is_refused(tiny: SimpleNamespace) -> None:
    with pytest.raises(BundleRefused, match="found a batch of 4"):
        tiny.runner(tiny.network(batch=4))


def test_an_output_of_another_width_is_refused(tiny: SimpleNamespace, frames: np.ndarray) -> None:
    with pytest.raises(BundleRefused, match=r"expected float32 logits \(5, 4\)"):
        tiny.runner(tiny.network(), classes=4).infer(frames)


def test_a_provider_that_is_not_here_is_not_replaced_by_another(
    tiny: SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(EnvironmentLacks, match=r"expected CUDAExecutionProvider, found only .*CPUExecutionProvider"):
        tiny.runner(tiny.network(), runtime="onnxruntime-cuda")
    assert capfd.readouterr().out == ""


def test_a_model_the_runtime_cannot_read_is_told_quietly(
    tiny: SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EnvironmentLacks, match="cannot run the model"):
        tiny.runner(b"no model at all")
    assert capfd.readouterr().out == ""


def test_a_tensorrt_engine_is_not_run_yet(tiny: SimpleNamespace) -> None:
    with pytest.raises(EnvironmentLacks, match="cannot run yet"):
        tiny.runner(tiny.network(), runtime="tensorrt")
