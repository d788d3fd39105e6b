import json
from pathlib import Path
from typing import Any

from factory.choice import TURNS, asleep, options, weigh
from factory.cost.book import LatencyBook
from factory.cost.probe import probe
from factory.profiles import BudgetLimits, DeviceProfile
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan
from factory.workspace import read_json
from tests.conftest import Finished

PLAN = plan(parse("stem_w8_s2-basic_w8_d1_k3_e1_s1-basic_w16_d1_k3_e1_s2"), Input(24, 24, 1), 2)
DEVICE = DeviceProfile(name="bench", description="", runtime="onnxruntime-cpu", batch=(1, 2, 4))
BUDGET = BudgetLimits(device="bench", latency_ms=0.5, size_mb=0.3, rhythm_ms=20)


def test_what_idling_costs_is_measured_as_many_frames_and_memory_are(tmp_path: Path) -> None:
    ticks: list[int] = []
    weigh({"fp32": probe(PLAN)}, PLAN, LatencyBook(tmp_path, DEVICE), 20.0, tmp_path, lambda: ticks.append(1))
    document = read_json(tmp_path / "choice.json")
    found = document["measured"]["fp32"]
    assert document["rhythm_ms"] == 20
    assert len(ticks) == TURNS
    assert found["after_idle"]["p50_ms"] > 0 and found["after_idle"]["batch"] == 1
    assert found["together"]["batch"] == 4
    assert found["memory_mb"] is None or 20 < found["memory_mb"] < 500


def test_of_a_station_that_is_elsewhere_nothing_is_made_up(tmp_path: Path) -> None:
    away = DEVICE.model_copy(update={"measured": "station"})
    weigh({"fp32": probe(PLAN)}, PLAN, LatencyBook(tmp_path, away), 20.0, tmp_path, lambda: None)
    assert read_json(tmp_path / "choice.json")["measured"] == {}
    (only,) = options([row("fp32")], {}, {"measured": {}}, away, BUDGET, "fp32")
    assert (only.p50_ms, only.after_idle_ms, only.frames_per_s, only.memory_mb) == (None, None, None, None)


def row(precision: str, **changes: Any) -> dict[str, Any]:
    known = {"precision": precision, "reasons": [], "size_mb": 0.2, "balanced_accuracy": 0.9}
    flows = {"escapes": {"after": 1, "total": 9}, "overkill": {"after": 2, "total": 8}}
    return known | flows | changes


def figures(ms: float) -> dict[str, float]:
    return {"p50_ms": ms, "p95_ms": ms, "p99_ms": ms, "max_ms": ms, "frames_per_s": 1e3 / ms}


def test_the_table_tells_what_speaks_against_each_way() -> None:
    rows = [row("fp32", size_mb=0.4), row("fp16", reasons=["2 defects pass"], escapes=None), row("int8")]
    timed = {"fp32": figures(0.6), "int8": figures(0.3)}
    more = {"after_idle": figures(0.7), "together": figures(2.0), "memory_mb": 60.0}
    table = options(rows, timed, {"measured": {"int8": more}}, DEVICE, BUDGET, "int8")
    told = [(o.precision, o.batch, o.against, o.recommended) for o in table]
    assert told == [
        ("fp32", 1, ("misses 0.5 ms", "misses 0.3 MB"), False),
        ("fp16", 1, ("2 defects pass",), False),
        ("int8", 1, (), True),
        ("int8", 4, (), False),
    ]
    best, many = table[2:]
    assert (best.p50_ms, best.after_idle_ms, best.memory_mb, best.escapes) == (0.3, 0.7, 60.0, (1, 9))
    assert (many.p50_ms, many.after_idle_ms, many.frames_per_s) == (2.0, None, 500)


def test_a_frame_that_takes_longer_than_the_budget_after_idling_is_told() -> None:
    assert asleep(None, BUDGET) is None and asleep(0.5, BUDGET) is None
    note = asleep(0.7, BUDGET)
    assert note is not None and "every 20 ms" in note and "0.700 ms: more than the budget of 0.5 ms" in note


def test_the_bench_recommends_what_was_delivered(finished: Finished) -> None:
    result = finished.again("bench", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    (best,) = (option for option in document["options"] if option["recommended"])
    assert best["precision"] == finished.document["precision"]
    assert best["p50_ms"] == document["rows"][0]["p50_ms"] == finished.document["latency_ms"]
    assert best["after_idle_ms"] > 0
    assert "recommended" in finished.again("bench").output
