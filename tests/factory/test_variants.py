"""Every precision of a trained network, on the finished tiny line: made, judged, chosen, packed, inspected with."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.build import gate
from export.build.precision import precision_of, to_fp16
from export.build.quantise import CALIBRATIONS, calibrate, quantise
from export.runtime.cli import main as station_main
from export.runtime.decision import softmax
from export.runtime.manifest import parse_manifest
from export.runtime.station import Station
from export.runtime.timing import Effort, Latency, Summary
from factory.cost.book import LatencyBook, open_runner
from factory.data.dataset import Part
from factory.delivery import bench, export_network, infer, logits_at
from factory.engine import Workers
from factory.golden import margins
from factory.handover import pack_bundle
from factory.outcome import Results
from factory.pipeline import Run
from factory.profiles import DeviceProfile, load_device, load_line
from factory.training.acceptance import threshold_for
from factory.training.finish import EXPECTED, load_plain, load_with
from factory.training.full import with_swapout
from factory.training.metrics import allowed_escapes
from factory.variants import Judge, Place, calibration_frames, fastest, limits, wanted
from factory.workspace import read_json
from tests.conftest import Finished

EVERY = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def run(finished: Finished) -> Run:
    """The finished run, opened again."""
    line, root = load_line(str(finished.profile))
    return Run(line, root, finished.runs, Workers("serial", None))


@pytest.fixture(scope="module")
def device(run: Run) -> DeviceProfile:
    return run.device.model_copy(update={"precisions": EVERY})


@pytest.fixture(scope="module")
def folder(run: Run, device: DeviceProfile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the delivered network in every precision."""
    place = tmp_path_factory.mktemp("export")
    chosen = run.chosen
    expected = load_with(with_swapout(chosen.plan, chosen.way.swapout), chosen.collapse.path / EXPECTED)
    networks = expected, load_plain(chosen.plan, chosen.collapse.path)
    export_network(run.line, device, [], chosen.plan, networks, run.data, run.norm, place)
    return place


@pytest.fixture(scope="module")
def judge(run: Run) -> Judge:
    def logits_of(model: bytes, place: Place) -> np.ndarray:
        return logits_at(place, model, run.chosen.plan, run.device, run.data.val.images)

    logits = logits_of(run.chosen.model, "any")
    reference = gate.Scored(logits, threshold_for(run.line, run.data.val, logits))
    return Judge(run.line, run.data.val, logits_of, reference)


def in_precision(run: Run, folder: Path, precision: str) -> Results:
    """The results of the run, had its export been the one in `folder` and this precision the fastest."""
    chosen = replace(run.chosen, export=replace(run.chosen.export, path=folder), precision=precision)
    return replace(run.results, chosen=chosen)


def test_every_variant_that_passes_is_written_and_is_what_it_is_said_to_be(run: Run, folder: Path) -> None:
    document = read_json(folder / "gate.json")
    assert [row["precision"] for row in document["variants"]] == list(EVERY)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["gate.json", *(row["path"] for row in document["variants"] if row["passed"])]
    )
    for row in document["variants"]:
        assert row["passed"], row["reasons"]
        data = (folder / row["path"]).read_bytes()
        assert precision_of(data) == row["precision"]
        assert row["size_mb"] == len(data) / 1e6
    exact, _, int8 = document["variants"]
    assert exact["parity"]["decisions_changed"] == 0 == exact["parity"]["score_difference"]
    assert exact["threshold"] == document["threshold"] == run.chosen.threshold
    assert (folder / "model.onnx").read_bytes() == run.chosen.model
    assert {tried["calibration"] for tried in int8["tried"]} == set(CALIBRATIONS)
    best = min(int8["tried"], key=lambda row: (not row["passed"], row["decisions_changed"], row["loss"]))
    assert int8["calibration"] == best["calibration"]


def test_the_counts_are_those_of_the_decisions_at_each_ones_own_threshold(run: Run, folder: Path) -> None:
    val = run.data.val
    rows = read_json(folder / "gate.json")["variants"]

    def rejected(row: dict[str, Any]) -> np.ndarray:
        model = (folder / row["path"]).read_bytes()
        scores = softmax(infer(open_runner(model, run.chosen.plan, run.device), val.images))
        return 1 - scores[:, 0] >= row["threshold"]

    before, defects = rejected(rows[0]), val.labels != 0
    for row in rows:
        after = rejected(row)
        assert row["parity"]["decisions_changed"] == int((before != after).sum())
        assert row["escapes"]["total"] == int(defects.sum())
        assert row["escapes"]["after"] == int((defects & ~after).sum())
        assert row["overkill"]["new"] == int((~defects & after & ~before).sum())


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_bundle_of_reduced_precision_is_loaded_and_inspects_as_it_was_judged(
    run: Run, folder: Path, finished: Finished, tmp_path: Path, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results = in_precision(run, folder, precision)
    pack_bundle(results, run.root, finished.key, tmp_path)
    bundle, trust = tmp_path / "bundle", Path(f"{finished.key}.pub")
    manifest = parse_manifest((bundle / "manifest.json").read_bytes())
    assert (manifest.model.precision, manifest.device.precision) == (precision, precision)
    assert precision_of((bundle / manifest.model.path).read_bytes()) == precision
    assert manifest.decision.threshold == results.chosen.threshold
    assert manifest.budget["size_mb"]["measured"] == len((bundle / "model.onnx").read_bytes()) / 1e6  # type: ignore[index]

    station = Station.load(bundle, [trust])  # scores its golden pictures
    test = run.data.test
    logits = infer(open_runner(results.chosen.model, results.chosen.plan, run.device), test.images)
    expected = 1 - softmax(logits)[:, 0] >= manifest.decision.threshold
    verdicts = [station.inspect(finished.images / path) for path in test.paths]
    assert [v.label != "good" for v in verdicts] == expected.tolist()

    assert station_main(["verify", str(bundle), "--trust", str(trust)]) == 0
    assert station_main(["inspect", str(bundle), str(finished.images), "--trust", str(trust)]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(said) == 80


@pytest.mark.skipif(find_spec("tensorrt_rtx_bindings") is None, reason="the extra rtx is not installed")
def test_an_engine_of_each_precision_comes_with_the_model_it_was_built_from(
    run: Run, finished: Finished, tmp_path: Path
) -> None:
    rtx = load_device("rtx-station").model_copy(update={"precisions": EVERY})
    place, chosen = tmp_path / "export", run.chosen
    place.mkdir()
    expected = load_with(with_swapout(chosen.plan, chosen.way.swapout), chosen.collapse.path / EXPECTED)
    networks = expected, load_plain(chosen.plan, chosen.collapse.path)
    export_network(run.line, run.device, [rtx], chosen.plan, networks, run.data, run.norm, place)
    pack_bundle(in_precision(run, place, "fp32"), run.root, finished.key, tmp_path)
    bundle, trust = tmp_path / "bundle", Path(f"{finished.key}.pub")
    manifest = parse_manifest((bundle / "manifest.json").read_bytes())
    assert [engine.precision for engine in manifest.engines] == list(EVERY)
    assert all((bundle / engine.path).read_bytes()[:4] == b"vtrt" for engine in manifest.engines)
    rows = {row["precision"]: row for row in read_json(place / "gate.json")["variants"]}
    assert [variant.model.precision for variant in manifest.variants] == ["fp16", "int8"]
    for variant in manifest.variants:
        assert precision_of((bundle / variant.model.path).read_bytes()) == variant.model.precision
        assert variant.decision.threshold == rows[variant.model.precision]["threshold"]
        assert variant.golden.tolerance > manifest.golden.tolerance
    assert Station.load(bundle, [trust]).manifest.model.precision == "fp32"


def test_golden_scores_are_those_of_the_delivered_variant(
    run: Run, folder: Path, finished: Finished, tmp_path: Path
) -> None:
    told = {}
    for precision in EVERY:
        place = tmp_path / precision
        place.mkdir()
        pack_bundle(in_precision(run, folder, precision), run.root, finished.key, place)
        told[precision] = json.loads((place / "bundle" / "golden" / "scores.json").read_text())["frames"]
    scores = {name: [frame["scores"]["good"] for frame in frames] for name, frames in told.items()}
    assert scores["fp32"] != scores["fp16"] != scores["int8"]
    assert len(scores["fp32"]) == 8


@pytest.mark.parametrize("flavour", ["cpu", "tensorrt"])
def test_a_calibration_on_a_grey_card_is_refused(run: Run, judge: Judge, tmp_path: Path, flavour: Any) -> None:
    frames = calibration_frames(run.data.train, 0)
    model = run.chosen.model
    good = quantise(model, calibrate(model, frames, "min-max", tmp_path), flavour)
    assert judge.judge(good, "int8", flavour).reasons == ()
    spoiled = quantise(
        model, calibrate(model, np.full_like(frames, round(frames.mean())), "min-max", tmp_path), flavour
    )
    variant = judge.judge(spoiled, "int8", flavour)
    assert variant.reasons
    assert variant.as_json([])["path"] is None


def test_a_float16_model_that_overflows_is_refused_and_not_an_error(run: Run, judge: Judge) -> None:
    model = onnx.load_from_string(run.chosen.model)
    first, second = [node for node in model.graph.node if node.op_type == "Conv"][:2]
    for tensor in model.graph.initializer:  # the same network by float32, its first map beyond float16
        factor = {first.input[1]: 1e5, first.input[2]: 1e5, second.input[1]: 1e-5}.get(tensor.name)
        if factor:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    variant = judge.judge(to_fp16(model.SerializeToString()), "fp16", "tensorrt")
    assert variant.reasons[0].endswith("of 16 images get no finite score")


def test_a_variant_gets_its_threshold_by_the_rule_of_every_network(run: Run, judge: Judge) -> None:
    variant = judge.judge(to_fp16(run.chosen.model), "fp16", "cpu")
    assert variant.threshold == threshold_for(run.line, run.data.val, judge.infer(variant.model, "cpu"))
    escapes = variant.exchange.escapes
    assert escapes is not None
    assert escapes.after <= allowed_escapes(escapes.total, 0.05)


def test_calibration_pictures_are_as_many_of_each_class_and_the_same_each_time() -> None:
    labels = np.array([0] * 500 + [1] * 300 + [2] * 40)
    images = np.arange(len(labels), dtype=np.int64)[:, None, None, None].astype(np.uint8)
    images = np.concatenate([images, labels[:, None, None, None].astype(np.uint8)], axis=3)
    train = Part(images, labels, ("",) * len(labels), ("",) * len(labels))
    frames = calibration_frames(train, 0)
    assert np.bincount(frames[..., 1].ravel()).tolist() == [85, 85, 40]
    assert np.array_equal(frames, calibration_frames(train, 0))
    assert not np.array_equal(frames, calibration_frames(train, 1))


def test_limits_follow_from_the_line_and_the_number_of_pictures(line_of: Any) -> None:
    line = line_of(acceptance={"escape_max": 0.1, "overkill_max": 0.6})
    labels = np.array([0] * 302 + [1] * 223)
    val = Part(np.zeros((525, 1, 1, 1), np.uint8), labels, ("",) * 525, ("",) * 525)
    found = limits(line, val)
    assert (found.escapes, found.overkill_more, found.changed) == (14, 6, 17)
    assert (found.overkill_max, found.balanced_accuracy_min) == (0.6, None)
    few = limits(line, Part(val.images[:20], labels[290:310], ("",) * 20, ("",) * 20))
    assert (few.escapes, few.overkill_more, few.changed) == (0, 0, 0)  # too few pictures to show anything
    assert limits(line_of(classes={"good": None}), val).escapes is None


def test_devices_ask_for_each_precision_once() -> None:
    devices = [load_device(name) for name in ("cpu-x86-vnni", "rtx-station", "gpu-tensorrt")]
    assert wanted(devices) == [("fp32", "any"), ("int8", "cpu"), ("fp16", "tensorrt"), ("int8", "tensorrt")]
    assert wanted([load_device("cpu-x86")]) == [("fp32", "any")]


def took(ms: float, spread: float) -> Summary:
    """Five turns around a median, `spread` of it apart."""
    turns = tuple(ms * (1 + spread * step) for step in (-1.5, -0.5, 0.0, 0.5, 1.5))
    return Latency(turns, turn_medians_ms=turns).summary


def test_the_fastest_is_delivered_and_float32_where_it_could_be_chance() -> None:
    slow, quick = took(1.0, 0.05), took(0.6, 0.05)
    sizes = {"fp32": 1.0, "fp16": 0.5, "int8": 0.3}
    assert fastest({"fp32": slow, "int8": quick}, sizes, 2.0) == "int8"
    assert fastest({"fp32": quick, "int8": slow}, sizes, 2.0) == "fp32"
    lucky = took(0.9, 0.1)  # ahead until another process woke up
    assert fastest({"fp32": slow, "int8": lucky}, sizes, 2.0) == "fp32"
    assert fastest({"fp32": slow, "fp16": took(0.9, 0.01), "int8": quick}, sizes, 2.0) == "int8"
    assert fastest({"fp32": slow}, sizes, 2.0) == "fp32"


def test_the_size_budget_counts_the_file_that_is_delivered() -> None:
    samples, sizes = {"fp32": took(1.0, 0.0), "int8": took(1.5, 0.0)}, {"fp32": 1.0, "int8": 0.3}
    assert fastest(samples, sizes, 1.0) == "fp32"
    assert fastest(samples, sizes, 0.5) == "int8"
    assert fastest(samples, sizes, 0.1) == "fp32"  # none fits: the missed budget is told elsewhere


def test_the_bench_times_every_precision_and_tells_the_one_chosen(
    run: Run, folder: Path, device: DeviceProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.delivery.BENCH", Effort(rounds=5, seconds=0.02, runs=5, warm_up_s=0.0))
    chosen = replace(run.chosen, export=replace(run.chosen.export, path=folder))
    assert list(chosen.models) == list(EVERY)
    bench({chosen.genome: (chosen.models, chosen.plan)}, LatencyBook(tmp_path, device), 0.5, tmp_path, lambda: None)
    timed, told = (read_json(tmp_path / name)[chosen.genome] for name in ("variants.json", "bench.json"))
    assert list(timed) == list(EVERY)
    assert all(row["runs"] >= 25 and row["p50_ms"] > 0 for row in timed.values())
    assert told["p50_ms"] == timed[told["precision"]]["p50_ms"]
    assert len(told["samples_ms"]) == told["runs"]


def test_a_margin_is_how_far_scores_may_move(line_of: Any) -> None:
    two = line_of().classes
    scores = np.array([[0.8, 0.2], [0.55, 0.45]])
    assert margins(scores, two, 0.4) == pytest.approx([0.2, 0.05])
    three = line_of(classes={"labels": ["good", "bad", "odd"], "good": "good"}).classes
    scores = np.array([[0.9, 0.06, 0.04], [0.2, 0.41, 0.39], [0.5, 0.4, 0.1]])
    assert margins(scores, three, 0.3) == pytest.approx([0.2, 0.01, 0.15])
    sorts = line_of(classes={"labels": ["good", "bad", "odd"], "good": None}).classes
    assert margins(scores, sorts, None) == pytest.approx([0.42, 0.01, 0.05])
