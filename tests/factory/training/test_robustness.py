import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.runtime.decision import softmax
from factory.data.dataset import Dataset, Part
from factory.profiles import LineProfile
from factory.training.corruptions import CORRUPTIONS
from factory.training.metrics import balanced_accuracy, escape, overkill
from factory.training.robustness import STEPS, Subject, load_robustness, section, study, write_robustness

Doc = dict[str, Any]


def by_brightness(images: np.ndarray) -> np.ndarray:
    """Good pictures of `data_of` are bright in the upper left, at 160; the others at 60."""
    half = images.shape[1] // 2
    reject = (110 - images[:, :half, :half].astype(np.float32).mean((1, 2, 3))) / 20
    return np.stack([-reject, reject], axis=1)


def blind(images: np.ndarray) -> np.ndarray:
    """Whatever it sees: it is good."""
    return np.tile(np.float32([2, 0]), (len(images), 1))


SUBJECTS = (Subject("found", by_brightness, 0.4), Subject("blind", blind, 0.5))


@pytest.fixture
def test(data_of: Callable[..., Dataset]) -> Part:
    return data_of(test=30).test


@pytest.fixture
def document(test: Part, line_of: Callable[..., LineProfile]) -> Doc:
    ticks: list[int] = []
    found = study("tiny", line_of().classes, test, SUBJECTS, 3, lambda: ticks.append(1))
    assert len(ticks) == STEPS
    return found


def test_every_figure_is_that_of_the_corrupted_pictures_judged_one_by_one(document: Doc, test: Part) -> None:
    means = []
    for subject, network in zip(SUBJECTS, document["networks"], strict=True):
        assert list(network["curves"]) == list(CORRUPTIONS)
        accuracies = []
        for name, corrupt in CORRUPTIONS.items():
            for severity, point in enumerate([network["clean"], *network["curves"][name]]):
                scores = softmax(subject.logits(corrupt(test.images, severity, 3)))
                rejected = 1 - scores[:, 0] >= subject.threshold
                expected = balanced_accuracy(test.labels, scores.argmax(1))
                assert point["balanced_accuracy"]["value"] == pytest.approx(expected)
                assert point["balanced_accuracy"]["low"] <= expected <= point["balanced_accuracy"]["high"]
                assert point["escape"]["value"] == escape(test.labels, rejected, 0).value
                assert point["overkill"]["high"] == overkill(test.labels, rejected, 0).high
                accuracies += [expected] if severity else []
        means.append(np.mean(accuracies))
        assert network["mean"]["balanced_accuracy"] == pytest.approx(means[-1])
    first, second = document["networks"]
    assert first["difference"] is None
    assert second["difference"]["value"] == pytest.approx(means[1] - means[0])
    assert second["difference"]["low"] < second["difference"]["value"] < second["difference"]["high"] < 0


def test_a_blind_network_is_at_chance_whatever_happens_and_a_seeing_one_is_not(document: Doc) -> None:
    seeing, sightless = document["networks"]
    assert sightless["mean"] == {"balanced_accuracy": 0.5, "escape": 1.0, "overkill": 0.0}
    assert seeing["clean"]["balanced_accuracy"]["value"] == 1
    worst = min(
        np.mean([point["balanced_accuracy"]["value"] for point in points]) for points in seeing["curves"].values()
    )
    assert seeing["worst"]["balanced_accuracy"] == pytest.approx(worst)
    assert 0.5 < worst < 1


def test_all_networks_judge_the_same_pictures(test: Part, line_of: Callable[..., LineProfile]) -> None:
    seen: dict[str, list[bytes]] = {"one": [], "two": []}

    def subject(name: str) -> Subject:
        def logits(images: np.ndarray) -> np.ndarray:
            seen[name].append(images.tobytes())
            return blind(images)

        return Subject(name, logits, 0.5)

    study("tiny", line_of().classes, test, [subject("one"), subject("two")], 0, lambda: None)
    assert seen["one"] == seen["two"]
    assert len(set(seen["one"])) == 1 + 5 * len(CORRUPTIONS)


def test_a_line_that_sorts_has_balanced_accuracy_alone(test: Part, line_of: Callable[..., LineProfile]) -> None:
    classes = line_of(classes={"labels": ["good", "bad"], "good": None}).classes
    found = study("tiny", classes, test, [Subject("net", by_brightness, None)], 0, lambda: None)
    (network,) = found["networks"]
    assert network["mean"]["escape"] is network["clean"]["overkill"] is None
    shown = section(found)
    assert shown.good is None
    assert {value for curve in shown.curves for value in (*curve.escape, *curve.overkill)} == {None}


def test_what_is_written_is_read_back_as_the_page_shows_it(
    document: Doc, test: Part, line_of: Callable[..., LineProfile], tmp_path: Path
) -> None:
    write_robustness("tiny", line_of().classes, test, SUBJECTS, 3, tmp_path, lambda: None)
    assert json.loads((tmp_path / "robustness.json").read_text()) == document
    shown = load_robustness(tmp_path)
    assert (shown.images, shown.good) == (30, "good")
    assert [row.name for row in shown.rows] == ["found", "blind"]
    assert len(shown.curves) == 2 * len(CORRUPTIONS)
    assert all(curve.balanced_accuracy[0] == 1 for curve in shown.curves if curve.network == "found")
    assert {len(curve.escape) for curve in shown.curves} == {6}
    assert shown.rows[1].difference == tuple(document["networks"][1]["difference"][k] for k in ("value", "low", "high"))
