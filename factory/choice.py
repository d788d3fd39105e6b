"""Which file to run at a station: what each precision costs there and decides, in one table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from export.build.onnx import INPUT, OUTPUT
from export.runtime.memory import memory_mb
from export.runtime.timing import Effort, Variant, random_frames, time_variants
from factory.cost.book import LatencyBook, open_runner
from factory.profiles import BudgetLimits, DeviceProfile
from factory.spaces.plan import Plan
from factory.workspace import write_json

IDLE: Final = Effort(rounds=3, seconds=0.0, runs=10, warm_up_s=0.2)
TOGETHER: Final = Effort(rounds=3, seconds=0.2, runs=5, warm_up_s=0.1)
TURNS: Final = IDLE.rounds + TOGETHER.rounds


def weigh(
    models: Mapping[str, bytes], plan: Plan, book: LatencyBook, rhythm_ms: float, folder: Path, tick: Callable[[], None]
) -> None:
    """Measure what the budget does not limit; write choice.json, by precision.

    That is the latency with a part every `rhythm_ms`, between which the processor idles, that of the most frames that
    the device takes at once, and the peak memory. Of a device that is not this machine nothing is known of them.

    Args:
        models: serialised, by precision.
        plan: of the network.
        book: of the device.
        rhythm_ms: how often the line sends a part.
        folder: of the stage.
        tick: called `TURNS` times for each model.
    """
    picture, most = plan.input, book.device.batch[2]
    shape = (picture.height, picture.width, picture.channels)
    found: dict[str, Any] = {}
    if not book.away:
        openers = [partial(open_runner, model, plan, book.device) for model in models.values()]
        idle = [Variant(opener, random_frames(shape), every_ms=rhythm_ms) for opener in openers]
        together = [Variant(opener, random_frames(shape, most)) for opener in openers]
        asked = {
            "runtime": book.device.runtime, "threads": book.device.threads, "input_name": INPUT, "output_name": OUTPUT,
            "frame_shape": shape, "classes": plan.classes,
        }  # fmt: skip
        timed = zip(time_variants(idle, IDLE, tick=tick), time_variants(together, TOGETHER, tick=tick), strict=True)
        found = {
            precision: {
                "after_idle": asdict(i.summary),
                "together": asdict(t.summary),
                "memory_mb": memory_mb(m, **asked),
            }
            for (precision, m), (i, t) in zip(models.items(), timed, strict=True)
        }
    write_json(folder / "choice.json", {"rhythm_ms": rhythm_ms, "measured": found})


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run the network: a back end, a precision and a batch.

    Latencies are ms a run of `batch` frames, `after_idle_ms` the median of one frame with the line's rhythm; None where
    they were not measured. Escapes and overkill are counts (found, of) on validation images, None on a line that only
    sorts. `against` says what speaks against it: the gate's reasons, or a missed budget.
    """

    backend: str
    precision: str
    batch: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    after_idle_ms: float | None
    frames_per_s: float | None
    size_mb: float
    memory_mb: float | None
    balanced_accuracy: float
    escapes: tuple[int, int] | None
    overkill: tuple[int, int] | None
    against: tuple[str, ...]
    recommended: bool


def options(
    variants: Sequence[Mapping[str, Any]],
    timed: Mapping[str, Mapping[str, Any]],
    choice: Mapping[str, Any],
    device: DeviceProfile,
    budget: BudgetLimits,
    delivered: str,
) -> list[Option]:
    """The table of a network on the budget's device: one frame and the most frames at once of every precision.

    Args:
        variants: the gate's rows of what the device can run.
        timed: figures of one frame, by precision.
        choice: what `weigh` wrote.
        device: of the budget.
        budget: whose latency is held against the median of one frame.
        delivered: the precision that is recommended.
    """
    return [
        option for row in variants for option in _options(row, timed, choice["measured"], device, budget, delivered)
    ]


def _options(
    row: Mapping[str, Any],
    timed: Mapping[str, Mapping[str, Any]],
    measured: Mapping[str, Mapping[str, Any]],
    device: DeviceProfile,
    budget: BudgetLimits,
    delivered: str,
) -> Iterator[Option]:
    precision = row["precision"]
    one, more = timed.get(precision, {}), measured.get(precision, {})
    against = [*row["reasons"]]
    if one and one["p50_ms"] > budget.latency_ms:
        against.append(f"misses {budget.latency_ms:g} ms")
    if row["size_mb"] > budget.size_mb:
        against.append(f"misses {budget.size_mb:g} MB")
    for batch, figures in ((1, one), (device.batch[2], more.get("together", {}))):
        if batch > 1 and not figures:
            continue
        yield Option(
            device.runtime,
            precision,
            batch,
            figures.get("p50_ms"),
            figures.get("p95_ms"),
            figures.get("p99_ms"),
            figures.get("max_ms"),
            more["after_idle"]["p50_ms"] if more and batch == 1 else None,
            figures.get("frames_per_s"),
            row["size_mb"],
            more.get("memory_mb") if batch == 1 else None,
            row["balanced_accuracy"],
            _counts(row["escapes"]),
            _counts(row["overkill"]),
            tuple(against) if batch == 1 else (),
            precision == delivered and batch == 1,
        )


def asleep(after_idle_ms: float | None, budget: BudgetLimits) -> str | None:
    """What to say where a frame after idling takes longer than the budget, which is held back to back; else None."""
    if after_idle_ms is None or after_idle_ms <= budget.latency_ms:
        return None
    return (
        f"With a part every {budget.rhythm_ms:g} ms the processor idles between two, and a frame takes "
        f"{after_idle_ms:.3f} ms: more than the budget of {budget.latency_ms:g} ms, which is held back to back. "
        "Keeping the processor awake (governor 'performance', no deep sleep) may help: `station bench` measures it."
    )


def _counts(flow: Mapping[str, int] | None) -> tuple[int, int] | None:
    return None if flow is None else (flow["after"], flow["total"])
