from html import unescape
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from factory.evidence.pilot_figure import panels, pilot_figure
from factory.report.style import BLUE, MUTED, VERMILION

FIRST = {"no noise": 0.30, "dropout, 1 to 0.8": 0.25, "Swapout, 1 to 0.5": 0.35, "SkipForward, 0.9 to 0.5": 0.5}
GAINS = {"dropout, 1 to 0.8": (0.01, 0.03, 0.05), "Swapout, 1 to 0.5": (-0.05, -0.03, -0.01)}


def estimate(low: float, value: float, high: float) -> dict[str, float]:
    return {"low": low, "value": value, "high": high}


def document(line: str = "caps & <lids>") -> dict[str, Any]:
    judged = [
        {"name": name, "loss_gain": estimate(*gain), "accuracy_gain": estimate(-0.01, 0.0, 0.01)}
        for name, gain in ({"no noise": (0.0, 0.0, 0.0)} | GAINS).items()
    ]
    images = {"trained": 70, "judged": 30}
    return {"line": line, "epochs": 4, "seeds": 3, "images": images, "first": FIRST, "judged": judged}


def test_every_noise_and_every_size_is_named_in_one_picture() -> None:
    text = pilot_figure(document())
    drawn = " ".join(ElementTree.fromstring(text).itertext())
    for name in FIRST:
        assert name in drawn
    for said in ("caps & <lids>", "4 epochs on 70 images, judged on 30 others", "3 further seeds, 95 % intervals"):
        assert said in unescape(drawn)


def test_the_same_document_is_the_same_file() -> None:
    assert pilot_figure(document()) == pilot_figure(document())
    assert pilot_figure(document()) != pilot_figure(document("other"))


def test_points_lie_where_the_document_says_and_only_what_was_judged_has_a_gain() -> None:
    left, middle, right = panels(document()).axes
    assert np.asarray(left.collections[0].get_offsets())[:, 0].tolist() == sorted(FIRST.values(), reverse=True)
    assert [label.get_text() for label in middle.get_yticklabels()] == list(reversed(GAINS))
    intervals = [line for line in middle.get_lines() if len(set(line.get_xdata())) == 2]  # type: ignore[arg-type]
    assert [list(line.get_xdata()) for line in intervals] == [[-0.05, -0.01], [0.01, 0.05]]  # type: ignore[arg-type]
    assert [line.get_color() for line in intervals] == [VERMILION, BLUE]
    points = [line for line in right.get_lines() if len(set(line.get_xdata())) == 2]  # type: ignore[arg-type]
    assert [list(line.get_xdata()) for line in points] == [pytest.approx([-1.0, 1.0])] * 2  # type: ignore[arg-type]
    assert {line.get_color() for line in points} == {MUTED}
