import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.runtime.contract import Contract
from export.runtime.engines import OnnxRunner
from export.runtime.timing import (
    CV_LIMIT,
    Clock,
    Effort,
    Latency,
    Variant,
    measure,
    random_frames,
    time_variants,
)


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
    contract = Contract(input_name="frame", output_name="logits", frame_shape=(8, 8, 1), classes=2)
    return OnnxRunner(model(width), contract, runtime="onnxruntime-cpu", threads=1)


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
        assert len(latency.turn_medians_ms) == 2
        assert min(latency.turn_medians_ms) <= latency.p50 <= max(latency.turn_medians_ms)


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
    latency = Latency(samples, batch=4, provider="CPUExecutionProvider", turn_medians_ms=(40.0, 60.0))
    assert latency.p50 == 51
    assert latency.percentile(95) == 96
    assert latency.as_json() == {
        "p50_ms": 51,
        "p90_ms": 91,
        "p95_ms": 96,
        "p99_ms": 100,
        "min_ms": 1,
        "max_ms": 101,
        "mean_ms": 51,
        "cv": pytest.approx(np.std(samples) / 51, abs=1e-3),
        "cv_turns": pytest.approx(0.2, abs=1e-4),
        "noisy": True,
        "runs": 101,
        "batch": 4,
        "frames_per_s": pytest.approx(4 / 0.051, abs=0.1),
        "provider": "CPUExecutionProvider",
    }


@pytest.mark.parametrize(("spread", "noisy"), [(0.9 * CV_LIMIT, False), (1.1 * CV_LIMIT, True)])
def test_a_run_is_called_noisy_above_the_limit_and_only_there(spread: float, noisy: bool) -> None:
    assert Latency((1 - spread, 1 + spread) * 50).summary.noisy is noisy


QUICK = Effort(rounds=2, seconds=0.0, runs=4, warm_up_s=0.0)


def test_a_batch_with_and_without_transfers_is_timed_on_the_provider_asked_for() -> None:
    frames = random_frames((8, 8, 1), batch=6)
    ways = [Variant(lambda: opened(8), frames, transfers) for transfers in (True, False)]
    for latency in time_variants(ways, QUICK):
        assert (latency.batch, latency.provider, len(latency.samples_ms)) == (6, "CPUExecutionProvider", 8)


@dataclass
class Simulated:
    """A clock on which a run takes `takes_ms` and nothing else takes time."""

    takes_ms: float
    now: int = 0
    reading_ns: int = 0
    slept: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += round(seconds * 1e9)

    @property
    def provider(self) -> str:
        return "simulated"

    def infer(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.started.append(self.now / 1e6)
        self.now += round(self.takes_ms * 1e6)
        return np.zeros((len(frames), 2), np.float32)

    def bound(self, frames: NDArray[np.uint8]) -> Callable[[], None]:
        raise NotImplementedError

    @property
    def clock(self) -> Clock:
        return Clock(self.read, self.sleep)

    def read(self) -> int:
        self.now += self.reading_ns
        return self.now


def test_the_gap_to_the_next_part_is_slept_not_spun() -> None:
    station = Simulated(takes_ms=3)
    effort = Effort(rounds=1, seconds=0.0, runs=5, warm_up_s=0.0)
    (latency,) = time_variants([Variant(lambda: station, FRAME, every_ms=20)], effort, clock=station.clock)
    assert latency.samples_ms == (3.0,) * 5
    assert station.started[:3] == [0, 3, 6]  # to warm up
    assert station.started[3:] == [9 + 20 * part for part in range(1, 6)]
    assert station.slept == pytest.approx([0.020, *[0.017] * 4])


def test_a_part_that_comes_while_the_last_is_at_work_is_taken_at_once() -> None:
    station = Simulated(takes_ms=30)
    effort = Effort(rounds=1, seconds=0.0, runs=3, warm_up_s=0.0)
    (latency,) = time_variants([Variant(lambda: station, FRAME, every_ms=20)], effort, clock=station.clock)
    assert latency.samples_ms == (30.0,) * 3
    assert station.started[3:] == [110, 140, 170]


@pytest.mark.parametrize("takes_ms", [5, 20, 20.0001, 30])
def test_a_clock_that_goes_on_while_it_is_read_is_never_asked_to_wait_backwards(takes_ms: float) -> None:
    station = Simulated(takes_ms=takes_ms, reading_ns=700)
    effort = Effort(rounds=2, seconds=0.0, runs=9, warm_up_s=0.0)
    (latency,) = time_variants([Variant(lambda: station, FRAME, every_ms=20)], effort, clock=station.clock)
    assert latency.samples_ms == pytest.approx([takes_ms] * 18, abs=0.001)


def test_the_warm_up_goes_on_until_its_time_is_over() -> None:
    station = Simulated(takes_ms=10)
    effort = Effort(rounds=1, seconds=0.05, runs=2, warm_up_s=0.2)
    (latency,) = time_variants([Variant(lambda: station, FRAME)], effort, clock=station.clock)
    assert (len(station.started), len(latency.samples_ms)) == (20 + 5, 5)


def test_a_real_station_really_waits() -> None:
    effort = Effort(rounds=1, seconds=0.0, runs=10, warm_up_s=0.0)
    start, busy = time.perf_counter(), time.process_time()
    time_variants([Variant(lambda: opened(8), FRAME, every_ms=40)], effort)
    assert time.perf_counter() - start >= 10 * 0.04
    assert time.process_time() - busy < 5 * 0.04  # a loop that spins takes all of it


def test_the_toy_models_are_valid() -> None:
    onnx.checker.check_model(onnx.load_from_string(model(8)), full_check=True)
