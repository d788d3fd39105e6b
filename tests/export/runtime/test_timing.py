import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.runtime.engines import OnnxRunner
from export.runtime.timing import Latency, measure


def model(width: int) -> bytes:
    """Pixels times a matrix of the given width, twice: the wider, the slower."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((64, width), (width, width), (width, 2))]
    tensors = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    nodes = [
        helper.make_node("Cast", ["frame"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["f"], ["a0"]),
        *(helper.make_node("MatMul", [f"a{i}", f"w{i}"], [f"a{i + 1}" if i < 2 else "logits"]) for i in range(3)),
    ]
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, ["n", 8, 8, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        tensors,
    )
    return bytes(
        helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )


def opened(width: int) -> OnnxRunner:
    return OnnxRunner(
        model(width),
        runtime="onnxruntime-cpu",
        threads=1,
        input_name="frame",
        output_name="logits",
        frame_shape=(8, 8, 1),
        classes=2,
    )


FRAME = np.zeros((1, 8, 8, 1), np.uint8)


def test_a_large_network_takes_longer_and_the_times_are_those_of_the_clock() -> None:
    ticks: list[int] = []
    start = time.perf_counter()
    runners = [lambda: opened(8), lambda: opened(1500)]
    small, large = measure(runners, FRAME, rounds=2, seconds=0.05, tick=lambda: ticks.append(1))
    spent = time.perf_counter() - start
    assert 0 < small.p50 < large.p50
    assert len(ticks) == 4
    for latency in (small, large):
        assert len(latency.samples_ms) >= 2 * 5
        assert sum(latency.samples_ms) / 1e3 < spent
        assert all(ms > 0 for ms in latency.samples_ms)


def test_every_round_runs_at_least_a_few_times_however_short() -> None:
    (latency,) = measure([lambda: opened(8)], FRAME, rounds=3, seconds=0.0)
    assert len(latency.samples_ms) == 15


def test_runners_take_turns_and_each_is_opened_for_its_own() -> None:
    order: list[str] = []

    def named(name: str) -> OnnxRunner:
        order.append(name)
        return opened(8)

    measure([lambda: named("a"), lambda: named("b")], FRAME, rounds=2, seconds=0.0)
    assert order == ["a", "b", "a", "b"]


def test_the_summary_is_that_of_the_samples() -> None:
    samples = tuple(float(ms) for ms in np.random.default_rng(0).permutation(np.arange(1, 102)))
    latency = Latency(samples)
    assert latency.p50 == 51
    assert latency.percentile(95) == 96
    assert latency.as_json() == {
        "p50_ms": 51,
        "p95_ms": 96,
        "p99_ms": 100,
        "min_ms": 1,
        "max_ms": 101,
        "cv": pytest.approx(np.std(samples) / 51, abs=1e-3),
        "runs": 101,
    }


def test_the_toy_models_are_valid() -> None:
    onnx.checker.check_model(onnx.load_from_string(model(8)), full_check=True)
