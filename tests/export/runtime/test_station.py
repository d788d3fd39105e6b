import gc
import json
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from export.runtime.errors import BundleRefused, EnvironmentLacks, GateError, ImageRefused
from export.runtime.keys import load_trusted
from export.runtime.manifest import Band, DecisionRule, DeviceContract, canonical_bytes
from export.runtime.station import Station

Make = Callable[..., Path]


@pytest.fixture
def station(bundle: Path, trust: list[Path]) -> Station:
    return Station.load(bundle, trust)


def test_bright_pictures_are_rejected_and_dark_ones_pass(station: Station, tiny: SimpleNamespace) -> None:
    dark, bright = (station.inspect(tiny.picture(grey)) for grey in (40, 220))
    assert (dark.verdict, dark.label, dark.threshold) == ("pass", "good", 0.4)
    assert (bright.verdict, bright.label) == ("reject", "scratch")
    assert set(dark.scores) == set(tiny.labels)
    assert sum(bright.scores.values()) == pytest.approx(1)
    assert dark.ms > 0


def test_a_file_its_bytes_and_its_pixels_get_the_same_scores(
    station: Station, tiny: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(tiny.picture(90, size=31))
    pixels = np.full((31, 31), 90, np.uint8)
    scores = [station.inspect(source).scores for source in (path, path.read_bytes(), pixels, pixels[:, :, None])]
    assert scores == [scores[0]] * 4


def test_a_batch_gets_the_verdicts_of_its_pictures(station: Station, tiny: SimpleNamespace) -> None:
    pictures = [tiny.picture(grey) for grey in range(0, 250, 25)]
    together = station.inspect_batch(pictures)
    alone = [station.inspect(picture) for picture in pictures]
    assert [(v.verdict, v.label) for v in together] == [(v.verdict, v.label) for v in alone]
    assert {v.verdict for v in together} == {"pass", "reject"}
    for one, other in zip(together, alone, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-6)
    assert station.inspect_batch([]) == []


def test_a_batch_with_an_unreadable_picture_is_refused(station: Station, tiny: SimpleNamespace) -> None:
    with pytest.raises(ImageRefused):
        station.inspect_batch([tiny.picture(1), b"not a picture"])


def test_keys_may_be_given_as_loaded(bundle: Path, trust: list[Path]) -> None:
    assert Station.load(bundle, load_trusted(trust)).manifest.line == "cells-3"


def test_a_sorting_line_names_classes(make_bundle: Make, trust: list[Path], tiny: SimpleNamespace) -> None:
    asked = tiny.draft(good=None, decision=DecisionRule(rule="argmax", threshold=None))
    station = Station.load(make_bundle(asked=asked), trust)
    verdict = station.inspect(tiny.picture(220))
    assert (verdict.verdict, verdict.label, verdict.threshold) == ("class", "scratch", None)


def golden(tiny: SimpleNamespace, edit: Callable[[list[dict[str, Any]]], None]) -> bytes:
    value = json.loads(tiny.scored(tiny.network(), tiny.draft()))
    edit(value["frames"])
    return canonical_bytes(value)


def shift(frames: list[dict[str, Any]]) -> None:
    frames[0]["scores"]["dent"] += 2e-4
    frames[2]["scores"]["dent"] += 3e-4


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (shift, "golden frame golden/002.png is off by 0.0003 "),
        (lambda frames: frames[1].update(verdict="pass"), "golden frame golden/001.png is decided otherwise"),
        (lambda frames: frames[1].update(label="dent"), "golden frame golden/001.png is decided otherwise"),
    ],
)
def test_golden_scores_that_do_not_come_out_again_refuse_the_bundle(
    make_bundle: Make, trust: list[Path], tiny: SimpleNamespace, edit: Callable[[Any], None], said: str
) -> None:
    folder = make_bundle(golden=golden(tiny, edit))
    with pytest.raises(BundleRefused, match=said):
        Station.load(folder, trust)


def test_golden_scores_within_the_tolerance_are_taken(
    make_bundle: Make, trust: list[Path], tiny: SimpleNamespace
) -> None:
    def nudge(frames: list[dict[str, Any]]) -> None:
        frames[0]["scores"]["dent"] += 5e-5

    assert Station.load(make_bundle(golden=golden(tiny, nudge)), trust).manifest.golden.tolerance == 1e-4


def test_a_golden_picture_that_cannot_be_read_refuses_the_bundle(
    make_bundle: Make, trust: list[Path], tiny: SimpleNamespace
) -> None:
    folder = make_bundle(extra={"golden/001.png": ("golden-frame", b"not a picture")})
    with pytest.raises(BundleRefused, match=r"golden/001\.png.*is not a picture"):
        Station.load(folder, trust)


def test_a_network_without_finite_scores_never_gets_to_inspect(
    make_bundle: Make, trust: list[Path], tiny: SimpleNamespace
) -> None:
    folder = make_bundle(
        model=tiny.network(bias=(float("nan"), 0, 0)), golden=tiny.scored(tiny.network(), tiny.draft())
    )
    with pytest.raises(GateError, match="no finite score"):
        Station.load(folder, trust)


ORIN = DeviceContract(name="orin", runtime="tensorrt", precision="fp16")


@pytest.fixture
def _no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.usefixtures("_no_tensorrt")
def test_a_runtime_that_is_not_here_is_an_error_and_no_other_steps_in(
    make_bundle: Make, trust: list[Path], tiny: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EnvironmentLacks, match=r"edge-model-factory\[trt\]"):
        Station.load(make_bundle(asked=tiny.draft(device=ORIN)), trust)
    assert caplog.records == []


@pytest.mark.usefixtures("_no_tensorrt")
def test_a_fallback_steps_in_where_the_profile_chose_it_and_is_said(
    make_bundle: Make, trust: list[Path], tiny: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_bundle(asked=tiny.draft(device=replace(ORIN, fallback="onnxruntime-cpu")))
    station = Station.load(folder, trust)
    assert station.provider == "CPUExecutionProvider"
    assert station.inspect(tiny.picture(220)).verdict == "reject"
    (said,) = caplog.records
    assert said.levelname == "WARNING"
    assert said.getMessage().startswith("FALLING BACK from tensorrt to onnxruntime-cpu, as the bundle allows: ")
    assert "expected the package edge-model-factory[trt], found no module tensorrt" in said.getMessage()
    with pytest.raises(EnvironmentLacks, match="trt"):  # asked for by name, nothing else will do
        Station.load(folder, trust, runtime="tensorrt")


def test_a_fallback_does_not_hide_a_bundle_that_was_changed(
    make_bundle: Make, trust: list[Path], tiny: SimpleNamespace
) -> None:
    folder = make_bundle(asked=tiny.draft(device=replace(ORIN, fallback="onnxruntime-cpu")))
    (folder / "model.onnx").write_bytes(b"x")
    with pytest.raises(BundleRefused, match="changed after signing"):
        Station.load(folder, trust)


def test_another_runtime_than_the_bundles_may_be_asked_for(
    make_bundle: Make, trust: list[Path], tiny: SimpleNamespace
) -> None:
    folder = make_bundle(asked=tiny.draft(device=ORIN))
    assert Station.load(folder, trust, runtime="onnxruntime-cpu").provider == "CPUExecutionProvider"


def test_another_resize_rule_is_a_lack_of_this_station(
    make_bundle: Make, trust: list[Path], tiny: SimpleNamespace
) -> None:
    asked = tiny.draft()
    folder = make_bundle(asked=replace(asked, input=replace(asked.input, resize="letterbox-v2")))
    with pytest.raises(EnvironmentLacks, match="found letterbox-v2"):
        Station.load(folder, trust)


def test_closed_it_gives_the_network_back(bundle: Path, trust: list[Path], tiny: SimpleNamespace) -> None:
    with Station.load(bundle, trust) as station:
        runner = weakref.ref(station._runner)
        assert station.inspect(tiny.picture(40)).verdict == "pass"
    gc.collect()
    assert runner() is None


def test_a_score_near_the_threshold_goes_to_a_person(
    tiny: SimpleNamespace, make_bundle: Any, trust: list[Path]
) -> None:
    rule = DecisionRule(rule="threshold", threshold=0.4, review=Band(low=0.2, high=0.6))
    station = Station.load(make_bundle(asked=tiny.draft(decision=rule)), trust)
    verdicts = [station.inspect(np.full((8, 8, 1), grey, np.uint8)) for grey in range(0, 256, 3)]
    assert {verdict.verdict for verdict in verdicts} == {"pass", "review", "reject"}
    for verdict in verdicts:
        near = 0.2 <= verdict.score <= 0.6
        assert (verdict.verdict == "review") == near
        assert verdict.reason == ("the score is near the threshold" if near else None)
        assert (verdict.label == "good") == (verdict.score < 0.4)
        assert verdict.score == pytest.approx(1 - verdict.scores["good"])
