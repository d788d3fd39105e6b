from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from export.runtime import ort_runner
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


def test_an_engine_is_no_model(tiny: SimpleNamespace) -> None:
    with pytest.raises(EnvironmentLacks, match="expected one of onnxruntime-cpu, onnxruntime-cuda, found tensorrt"):
        tiny.runner(tiny.network(), runtime="tensorrt")


def test_frames_bound_once_are_computed_again_and_again(tiny: SimpleNamespace, frames: np.ndarray) -> None:
    runner = tiny.runner(tiny.network())
    compute = runner.bound(frames[:, :, ::-1])  # not contiguous
    for _ in range(3):
        compute()
    with pytest.raises(UsageError, match=r"expected uint8 \(N, 8, 8, 1\)"):
        runner.bound(frames.astype(np.float32))


def test_more_frames_than_the_model_takes_are_refused_in_the_words_of_an_engine(
    tiny: SimpleNamespace, frames: np.ndarray
) -> None:
    said = r"the network does not take so many frames at once: expected a batch of 1, found a batch of 5\. Send one"
    with pytest.raises(UsageError, match=said):
        tiny.runner(tiny.network(batch=1)).bound(frames)


def test_a_failure_while_it_computes_is_told_in_one_line_and_once(
    tiny: SimpleNamespace, frames: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    """A network that declares any batch, and fails at another than 1 inside."""
    model = onnx.load_model_from_string(tiny.network())
    shape = numpy_helper.from_array(np.array([1, 8, 8, 1]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node[0].input[0] = "one"
    model.graph.node.insert(0, helper.make_node("Reshape", ["image", "shape"], ["one"]))
    runner = tiny.runner(model.SerializeToString())
    assert runner.infer(frames[:1]).shape == (1, 3)
    for call in (lambda: runner.infer(frames), runner.bound(frames)):
        with pytest.raises(EnvironmentLacks, match=r"the runtime failed: found .*Reshape.*\. Restart the st") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("loads", "opened"), [(False, "no such library"), (True, "CPUExecutionProvider instead")])
def test_cuda_that_does_not_load_is_not_replaced_by_the_processor(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], loads: bool, opened: str
) -> None:
    """As the GPU package does without CUDA's libraries: it names the provider, prints, and opens another one."""
    asked: list[dict[str, Any]] = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, model: bytes, options: Any, **rest: Any) -> None:
            asked.append(rest | {"strict": options.get_session_config_entry("session.disable_cpu_ep_fallback")})
            if not loads:
                raise RuntimeError("no such library")
            super().__init__(model)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("not found"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(EnvironmentLacks, match=rf"expected CUDAExecutionProvider, found {opened}\. Check nvidia-smi"):
        tiny.runner(tiny.network(), runtime="onnxruntime-cuda")
    assert asked == [{"providers": ["CUDAExecutionProvider"], "enable_fallback": 0, "strict": "1"}]
    assert capfd.readouterr().out == ""


@pytest.fixture
def _another_processor() -> Iterator[None]:
    ort_runner._adds_exactly.cache_clear()
    yield
    ort_runner._adds_exactly.cache_clear()


@pytest.mark.usefixtures("_another_processor")
@pytest.mark.parametrize(
    ("vectors", "told"),
    [((), True), (("avx2", "avx512f"), True), (("avx2", "avx_vnni"), False), (("avx512_vnni", "amx_tile"), False)],
)
def test_a_processor_whose_int8_sums_would_saturate_is_told_to_be_exact_and_no_other_is_slowed(
    vectors: tuple[str, ...], told: bool, tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_runner, "vector_units", lambda: vectors)
    options = tiny.runner(tiny.network())._session.get_session_options()
    if told:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError, match="does not have configuration with key"):
            options.get_session_config_entry("session.x64quantprecision")


def test_one_frame_is_scored_as_in_a_batch_also_by_several_threads(tiny: SimpleNamespace) -> None:
    runner = tiny.runner(tiny.network())
    frames = np.random.default_rng(0).integers(0, 256, (200, tiny.size, tiny.size, 1), dtype=np.uint8)
    expected = runner.infer(frames)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(runner.infer_one, frames))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(UsageError, match=r"expected uint8 \(8, 8, 1\), found uint8 \(8, 8\)"):
        runner.infer_one(frames[0, :, :, 0])
