"""The page of a comparison: whole, closed in itself, true to its input."""

import re
from dataclasses import replace

import numpy as np
import pytest

from factory.report.versus_page import Apart, BundleFacts, FigureRow, VersusReport, render


def report(good: str | None = "fine") -> VersusReport:
    facts = BundleFacts(
        "a" * 16, "bundles/old", "cells", "2026-01-02T03:04:05Z", "cpu, fp32", "24 x 24, grey", 1.234, 0.5
    )
    rows = [FigureRow("Balanced accuracy", (0.951, 0.93, 0.97), (0.962, 0.94, 0.98), (0.011, -0.004, 0.026), None)]
    if good:
        rows.append(FigureRow("Escape", (0.05, 0.03, 0.08), (0.04, 0.02, 0.07), (-0.01, -0.02, -0.0001), 0.0375))
    draw = np.random.default_rng(0)
    pictures = [
        Apart(draw.integers(0, 256, shape, np.uint8), "crack", "fine", "crack", False, True, "crack/7.png")
        for shape in ((30, 40), (30, 40, 3))
    ]
    return VersusReport(
        line="Castings <4>",
        created="2026-03-09 08:05 UTC",
        tool_version="0.1.0",
        good=good,
        sentence="B lets 3 fewer of 310 defects pass.",
        notes=["B was made elsewhere."],
        bundles=(facts, replace(facts, bundle="b" * 16, latency_ms=None)),
        figures=rows,
        both_right=1480,
        only_a=11,
        only_b=20,
        both_wrong=13,
        p=0.15,
        differ=31,
        pictures=pictures,
    )


@pytest.mark.parametrize("good", ["fine", None])
def test_the_page_needs_nothing_from_outside_and_is_the_same_each_time(good: str | None) -> None:
    text = render(report(good))
    assert text == render(report(good))
    assert "http" not in text
    assert not re.search(r"<(script|link)\b|@import|url\(", text)
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="([^"]*)"', text))
    for tag in ("section", "table", "tr", "td", "div", "figure"):
        assert len(re.findall(rf"<{tag}\b", text)) == text.count(f"</{tag}>")
    assert "Castings &lt;4&gt;" in text


def test_the_values_shown_are_those_given() -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", render(report()).partition("</style>")[2].replace("<wbr>", "")))
    for shown in (
        ["B lets 3 fewer of 310 defects pass.", "B was made elsewhere."],
        ["95.1 %", "93.0 – 97.0 %", "+1.1 (-0.4 to +2.6)", "-1.0 (-2.0 to +0.0)", "0.037"],
        ["1,480", "11only A", "20only B", "a probability of 0.15", "bundles/old", "1.23 ms", "0.500 MB"],
        ["2 of 31 are shown", "defects first", "✗ fine", "✓ crack", "crack/7.png"],
    ):
        assert [value for value in shown if value not in text] == []
    assert render(report()).count("<img") == 2


def test_a_line_that_sorts_and_bundles_that_agree_read_well() -> None:
    text = render(replace(report(None), pictures=[], differ=0))
    assert "They decide alike on every test image." in text
    assert "threshold" not in text
    assert "Escape" not in text
