"""How long a network takes in its runtime: warm, back to back or at a line's rhythm, the variants in turn."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.runtime.engines import Runner

WARM_UP_RUNS: Final = 3
CV_LIMIT: Final = 0.2  # on a machine that does nothing else, small networks stay well below it


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a variant is timed: `rounds` turns, each warmed up, then of at least `seconds` and at least `runs`."""

    rounds: int
    seconds: float
    runs: int
    warm_up_s: float


PUBLISHED: Final = Effort(rounds=5, seconds=0.6, runs=20, warm_up_s=0.6)  # in all 3 s and 100 runs, 3 s warmed up


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one variant, in ms a run of `batch` frames.

    `cv` is the coefficient of variation of the runs, `noisy` whether it is above `CV_LIMIT`: the machine was busy with
    something else or changed its clock. `cv_turns` is that of the turns' medians: how far the median can be trusted,
    which a few late runs move little (0 after a single turn). `frames_per_s` is what the mean run allows, however many
    came in fact.
    """

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    min_ms: float
    max_ms: float
    mean_ms: float
    cv: float
    cv_turns: float
    noisy: bool
    runs: int
    batch: int
    frames_per_s: float
    provider: str


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of every timed run of a batch, what computed them as the runtime says, the median of each turn."""

    samples_ms: tuple[float, ...]
    batch: int = 1
    provider: str = "unknown"
    turn_medians_ms: tuple[float, ...] = ()

    def percentile(self, q: float) -> float:
        """The q-th percentile, in ms."""
        return float(np.percentile(self.samples_ms, q))

    @property
    def p50(self) -> float:
        """Median, the figure budgets are held against, in ms."""
        return self.percentile(50)

    @property
    def summary(self) -> Summary:
        """Figures in ms, rounded to 0.1 us."""
        mean, cv = float(np.mean(self.samples_ms)), _variation(self.samples_ms)
        p50, p90, p95, p99 = (round(self.percentile(q), 4) for q in (50, 90, 95, 99))
        return Summary(
            p50_ms=p50,
            p90_ms=p90,
            p95_ms=p95,
            p99_ms=p99,
            min_ms=round(min(self.samples_ms), 4),
            max_ms=round(max(self.samples_ms), 4),
            mean_ms=round(mean, 4),
            cv=round(cv, 3),
            cv_turns=round(_variation(self.turn_medians_ms), 4),
            noisy=cv > CV_LIMIT,
            runs=len(self.samples_ms),
            batch=self.batch,
            frames_per_s=round(1e3 * self.batch / mean, 1),
            provider=self.provider,
        )

    def as_json(self) -> dict[str, float | int | str]:
        """The summary as a JSON object."""
        return asdict(self.summary)


def _variation(values: Sequence[float]) -> float:
    return float(np.std(values) / np.mean(values)) if values else 0.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One thing to time: a runner, opened for every turn, on a batch of frames uint8 (N, H, W, C).

    With `transfers` a run takes the frames from the host and brings the scores back; without, it only computes.
    `every_ms` above 0 lets the runner idle until the next batch is due, as at a station to which a part comes every so
    many ms.
    """

    open: Callable[[], Runner]
    frames: NDArray[np.uint8]
    transfers: bool = True
    every_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Monotonic nanoseconds, and how to wait some seconds: by sleeping, as a station does, which lets clocks fall."""

    now_ns: Callable[[], int] = field(default=time.perf_counter_ns)
    sleep: Callable[[float], None] = field(default=time.sleep)


def random_frames(shape: tuple[int, int, int], batch: int = 1) -> NDArray[np.uint8]:
    """Frames uint8 (batch, H, W, C) to time on, the same every time: latency does not depend on what they show."""
    return np.random.default_rng(0).integers(0, 256, (batch, *shape), np.uint8)


def time_variants(
    variants: Sequence[Variant],
    effort: Effort,
    *,
    tick: Callable[[], None] = lambda: None,
    clock: Clock = Clock(),
) -> list[Latency]:
    """Time every variant; `tick` is called after every turn.

    Every round gives every variant its turn, so that a slow spell of the machine falls on all of them. A runner
    is opened for its turn and closed behind it, which keeps one session's threads from disturbing the next.
    Raises what opening or running a runner raises.
    """
    turns: list[list[list[float]]] = [[] for _ in variants]
    providers = ["unknown"] * len(variants)
    for _ in range(effort.rounds):
        for index, variant in enumerate(variants):
            runner = variant.open()
            providers[index] = runner.provider
            run = _run_of(runner, variant)
            _run_for(run, clock, effort.warm_up_s, WARM_UP_RUNS)
            turns[index].append(_run_for(run, clock, effort.seconds, effort.runs, variant.every_ms))
            del runner, run
            tick()
    return [
        Latency(tuple(chain(*own)), len(variant.frames), provider, tuple(float(np.median(turn)) for turn in own))
        for own, variant, provider in zip(turns, variants, providers, strict=True)
    ]


def measure(
    runners: Sequence[Callable[[], Runner]],
    frames: NDArray[np.uint8],
    *,
    rounds: int,
    seconds: float,
    tick: Callable[[], None] = lambda: None,
) -> list[Latency]:
    """Time runners on the same frames, uint8 (N, H, W, C), transfers included, briefly: for many candidates."""
    effort = Effort(rounds, seconds, runs=5, warm_up_s=min(0.1, seconds))
    return time_variants([Variant(open_runner, frames) for open_runner in runners], effort, tick=tick)


def _run_of(runner: Runner, variant: Variant) -> Callable[[], object]:
    return partial(runner.infer, variant.frames) if variant.transfers else runner.bound(variant.frames)


def _run_for(
    run: Callable[[], object], clock: Clock, seconds: float, at_least: int, every_ms: float = 0.0
) -> list[float]:
    """Milliseconds of each run, until both the time and the number of runs are reached.

    With a rhythm every run waits for its due time first; one that is late already starts at once.
    """
    samples: list[float] = []
    start = clock.now_ns()
    due, end = start, start + int(seconds * 1e9)
    while len(samples) < at_least or clock.now_ns() < end:
        if every_ms:
            due += int(every_ms * 1e6)
            wait = due - clock.now_ns()
            if wait > 0:
                clock.sleep(wait / 1e9)
            else:
                due -= wait
        start = clock.now_ns()
        run()
        samples.append((clock.now_ns() - start) / 1e6)
    return samples
