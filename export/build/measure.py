"""Latency of an ONNX graph on this machine: one frame at a time, warm, the variants interleaved."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.runtime.engines import OnnxRunner

WARM_UP_S = 0.1


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of every timed run of one frame."""

    samples_ms: tuple[float, ...]

    def percentile(self, q: float) -> float:
        """The q-th percentile, in ms."""
        return float(np.percentile(self.samples_ms, q))

    @property
    def p50(self) -> float:
        """Median, the figure budgets are held against, in ms."""
        return self.percentile(50)

    def as_json(self) -> dict[str, float | int]:
        """Summary in ms."""
        mean = float(np.mean(self.samples_ms))
        return {
            **{f"p{q}_ms": round(self.percentile(q), 4) for q in (50, 95, 99)},
            "min_ms": round(min(self.samples_ms), 4),
            "max_ms": round(max(self.samples_ms), 4),
            "cv": round(float(np.std(self.samples_ms)) / mean, 3),
            "runs": len(self.samples_ms),
        }


def _run_for(runner: OnnxRunner, frame: NDArray[np.uint8], seconds: float, at_least: int) -> list[float]:
    """Milliseconds of each run, until both the time and the number of runs are reached."""
    samples: list[float] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while len(samples) < at_least or time.perf_counter_ns() < end:
        start = time.perf_counter_ns()
        runner.infer(frame)
        samples.append((time.perf_counter_ns() - start) / 1e6)
    return samples


def measure(
    runners: Sequence[Callable[[], OnnxRunner]],
    frame: NDArray[np.uint8],
    *,
    rounds: int,
    seconds: float,
    tick: Callable[[], None] = lambda: None,
) -> list[Latency]:
    """Time each runner on one frame, uint8 (1, H, W, C), transfers included.

    Every round times every runner for `seconds`, so that a slow spell of the machine falls on all of them. A runner
    is opened for its turn and closed behind it, which keeps one session's threads from disturbing the next.
    """
    samples: list[list[float]] = [[] for _ in runners]
    for _ in range(rounds):
        for own, open_runner in zip(samples, runners, strict=True):
            runner = open_runner()
            _run_for(runner, frame, min(WARM_UP_S, seconds), 3)
            own.extend(_run_for(runner, frame, seconds, 5))
            tick()
    return [Latency(tuple(own)) for own in samples]
