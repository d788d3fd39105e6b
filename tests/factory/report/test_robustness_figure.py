"""The section of worse pictures: a panel a kind, one scale for all, nothing where nothing was studied."""

import re
from html import unescape

import numpy as np
import pytest

from factory.report import robustness_figure as figure
from factory.report.model import Robustness, RobustnessCurve, RobustnessRow

KINDS = ("blur", "dust", "noise", "shift", "JPEG")


def robustness(names: tuple[str, ...] = ("found", "plain"), *, good: str | None = "fine") -> Robustness:
    falling = np.linspace(0.95, 0.55, 6)
    rates = [None] * 6 if good is None else [0.02, 0.04, 0.08, 0.1, 0.2, 0.3]
    curves = [
        RobustnessCurve(name, kind, list(falling**power), rates, rates[::-1])
        for power, name in enumerate(names, 1)
        for kind in KINDS
    ]
    rows = [
        RobustnessRow(name, 0.95, 0.81, 0.1, 0.2, "dust", 0.7, (-0.012, -0.03, 0.004) if number else None)
        for number, name in enumerate(names)
    ]
    return Robustness(262, good, rows, curves)


def test_each_kind_has_its_panel_and_each_network_its_name_once() -> None:
    drawn = figure.balanced_accuracy(robustness())
    for kind in KINDS:
        assert drawn.count(f">{kind[0].upper() + kind[1:]}<") == 1
    assert [drawn.count(f">{name}<") for name in ("found", "plain")] == [1, 1]
    assert "escape" not in drawn
    assert drawn == figure.balanced_accuracy(robustness())


def test_escape_and_overkill_are_told_apart_in_the_legend() -> None:
    drawn = figure.escape_and_overkill(robustness())
    assert [drawn.count(f">{name}<") for name in ("escape", "overkill")] == [1, 1]
    assert "stroke-dasharray" in drawn
    assert "stroke-dasharray" not in figure.balanced_accuracy(robustness())


def test_all_panels_share_a_scale_that_begins_below_the_lowest_value() -> None:
    drawn = figure.balanced_accuracy(robustness())
    named = {int(tick) for tick in re.findall(r">(\d+) %<", drawn)}
    assert max(named) == 100
    assert min(named) == 20  # 0.55 squared lies between 20 % and 40 %
    assert len(re.findall(r">100 %<", drawn)) == 2  # a column of two panels, others share theirs


@pytest.mark.parametrize("count", [1, 9])
def test_any_number_of_networks_with_any_names_is_drawn(count: int) -> None:
    names = tuple(f"<network> {number} & a name that is much longer than the panel is wide" for number in range(count))
    drawn = unescape(figure.balanced_accuracy(robustness(names)))
    assert len(re.findall(r"<network> \d & a", drawn)) == count
