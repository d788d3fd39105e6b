"""A bundle timed at its station, in this process and as the command."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.runtime import bench
from export.runtime.cli import main
from export.runtime.figures import table
from export.runtime.manifest import bundle_id
from export.runtime.timing import CV_LIMIT, Effort, Latency

CONTRACT = {"backend", "provider", "batch", "p50_ms", "p95_ms", "p99_ms", "min_ms", "cv", "runs"}
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "EFFORT", Effort(rounds=2, seconds=0.0, runs=3, warm_up_s=0.0))
    monkeypatch.setenv("STATION_STORE", str(tmp_path / "store"))


@pytest.fixture
def station(capsys: pytest.CaptureFixture[str], trust: list[Path]) -> Said:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["bench", *(str(argument) for argument in arguments), "--trust", str(trust[0])])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def limited(tiny: SimpleNamespace, limit: Any) -> Any:
    return tiny.draft(budget={"device": "bench", "latency_ms": {"limit": limit, "measured": {"p50_ms": 0.1}}})


def test_the_document_has_every_figure_and_what_it_was_measured_on(
    station: Said, make_bundle: Callable[..., Path], tiny: SimpleNamespace
) -> None:
    folder = make_bundle(asked=limited(tiny, 1000.0))
    code, out, err = station(folder, "--json", "--rhythm-ms", "5")
    assert code == 0, err
    document = json.loads(out)
    assert set(document) >= CONTRACT | {"p90_ms", "max_ms", "after_idle", "without_transfers", "fingerprint", "threads"}
    assert document["bundle"] == bundle_id((folder / "manifest.json").read_bytes())
    assert (document["backend"], document["provider"]) == ("onnxruntime-cpu", "CPUExecutionProvider")
    assert (document["budget_ms"], document["within_budget"]) == (1000.0, True)
    assert document["after_idle"]["every_ms"] == 5
    for figures in (document, document["after_idle"], document["without_transfers"]):
        assert figures["runs"] == 6
        ordered = [figures[f"{name}_ms"] for name in ("min", "p50", "p90", "p95", "p99", "max")]
        assert ordered == sorted(ordered) and ordered[0] > 0
        assert figures["noisy"] is (figures["cv"] > CV_LIMIT) or abs(figures["cv"] - CV_LIMIT) < 1e-3
    assert document["fingerprint"]["identity"]["runtime"].startswith("onnxruntime ")
    assert "turn 6 of 6" in err and "next: station inspect" in err


def test_the_table_for_people(station: Said, make_bundle: Callable[..., Path], tiny: SimpleNamespace) -> None:
    code, out, _ = station(make_bundle(asked=limited(tiny, 1000)), "--rhythm-ms", "5")
    assert code == 0
    for part in ("CPUExecutionProvider", "back to back", "without transfers", "every 5 ms", "p99", "frames/s"):
        assert part in out
    assert "budget: 1000 ms a frame, kept" in out
    assert "\nidentity: processor " in out and "governor" in out


def test_a_missed_budget_exits_with_1_and_still_tells_the_figures(
    station: Said, make_bundle: Callable[..., Path], tiny: SimpleNamespace
) -> None:
    code, out, err = station(make_bundle(asked=limited(tiny, 1e-6)), "--json", "--rhythm-ms", "0")
    assert code == 1
    document = json.loads(out)
    assert (document["within_budget"], document["after_idle"]) == (False, None)
    assert "error: the bundle misses its latency budget on this machine: expected a median of at most 1e-06 ms" in err


def test_a_budget_that_is_not_there_or_not_of_a_batch_is_not_judged(
    station: Said, bundle: Path, make_bundle: Callable[..., Path], tiny: SimpleNamespace, tmp_path: Path
) -> None:
    code, out, _ = station(bundle, "--json", "--rhythm-ms", "0")  # its budget names no limit of latency
    assert code == 0
    assert (json.loads(out)["budget_ms"], json.loads(out)["within_budget"]) == (None, None)
    bundle.rename(tmp_path / "first")
    code, out, _ = station(make_bundle(asked=limited(tiny, 1e-6)), "--json", "--batch", "4", "--rhythm-ms", "0")
    assert code == 0
    document = json.loads(out)
    assert (document["batch"], document["without_transfers"]["batch"], document["within_budget"]) == (4, 4, None)


def test_a_changed_bundle_is_refused_and_a_missing_runtime_exits_with_3(
    station: Said, make_bundle: Callable[..., Path], tiny: SimpleNamespace, tmp_path: Path
) -> None:
    asked = tiny.draft()
    rtx = type(asked.device)(name="orin", runtime="tensorrt-rtx", precision="fp32")
    code, out, _ = station(make_bundle(asked=tiny.draft(device=rtx)))
    assert (code, out) == (3, "")
    (tmp_path / "bundle" / "model.onnx").write_bytes(b"x")
    code, out, err = station(tmp_path / "bundle")
    assert (code, out) == (1, "")
    assert "model.onnx was changed after signing" in err


@pytest.mark.parametrize("arguments", ["--batch 0", "--batch x", "--rhythm-ms -1", "--rhythm-ms nan"])
def test_wrong_numbers_are_wrong_usage(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "bundle", *arguments.split()])
    assert exit_.value.code == 2
    assert arguments.split(maxsplit=1)[0] in capsys.readouterr().err


def test_unsteady_figures_are_marked_and_explained() -> None:
    steady, unsteady = Latency((1.0,) * 9).as_json(), Latency((1.0,) * 9 + (9.0,)).as_json()
    clean = table([("a", steady)])
    assert len(clean) == 2 and "*" not in "".join(clean)
    head, first, second, why = table([("a", steady), ("b", unsteady)])
    assert "*" not in head + first
    assert second.split()[-3:] == ["*", "0.0%", "10"]
    assert why.startswith("* unsteady") and f"{CV_LIMIT:g}" in why
