"""The page of a run: whole, closed in itself, true to its input, and never half written."""

from __future__ import annotations

import base64
import io
import os
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factory.report import figures
from factory.report.model import (
    AcceptanceRow,
    Budget,
    ClassRow,
    Curve,
    Mistake,
    MistakeRow,
    NetworkRow,
    Review,
    Robustness,
    RobustnessCurve,
    RobustnessRow,
    RunReport,
    SearchPoint,
    ShortlistRow,
    StageRow,
)
from factory.report.page import MOST_MISTAKES, render, write

VOID = {"meta", "br", "img", "wbr", "link", "input", "hr"}
GENOME = "k3.e4|k5.e6|w0.75"
NAMES = ["search-latency", "search-size", "loss", "accuracy", "confusion", "rejects", "measured"]


def points(many: int) -> list[SearchPoint]:
    draw = np.random.default_rng(5)
    size = draw.gamma(2.0, 1.0, many) + 0.2
    score = 100 * np.tanh(size) * draw.uniform(0.8, 1.0, many)
    return [
        SearchPoint(GENOME if i == 0 else f"net-{i}", float(s), float(s), float(1 + m), float(m), i % 5 == 0)
        for i, (s, m) in enumerate(zip(score, size, strict=True))
    ]


def full() -> RunReport:
    draw = np.random.default_rng(7)
    epochs = list(range(1, 21))
    row = ShortlistRow(GENOME, "candidate", 88.5, 0.31, 2.5, 1.9, 412_345, 0.9123, True)
    return RunReport(
        line="Castings, line 4",
        device="station 12",
        created=datetime(2026, 3, 9, 8, 5, tzinfo=UTC),
        tool_version="0.1.0",
        accepted=True,
        headline="Install the bundle for a trial.",
        delivered_genome=GENOME,
        good="fine",
        labels=["fine", "crack"],
        threshold=0.4375,
        budgets=[Budget("latency", "ms", 5.0, 4.31, 4.47, True), Budget("size", "MB", 4.0, 3.12, 3.14, True)],
        evaluated=12_345,
        search_points=points(300),
        chosen_genome=GENOME,
        shortlist=[row, replace(row, genome="plain", role="reference", chosen=False)],
        curves=[
            Curve("short", epochs[:4], [1.0, 0.8, 0.7, 0.6], [None, 0.6, None, 0.7]),
            Curve("long", epochs, [1 / e for e in epochs], [1 - 0.5 / e for e in epochs]),
        ],
        acceptance=[
            AcceptanceRow("balanced accuracy", 0.9561, 0.9402, 0.9684, "≥ 93.0 %", True),
            AcceptanceRow("escape", 0.0283, 0.0129, 0.0527, "≤ 5.0 %", True),
            AcceptanceRow("overkill", 0.0717, 0.05, 0.09, "≤ 6.0 %", False),
            AcceptanceRow("AUROC", 0.9923, 0.9871, 0.9958, None, None, unit=""),
        ],
        classes=[ClassRow("fine", 1620, 0.9283, 0.9, 0.95), ClassRow("crack", 106, 0.9717, 0.92, 0.99)],
        confusion=np.array([[1504, 116], [3, 103]]),
        reject_scores=np.concatenate([draw.beta(1, 9, 200), draw.beta(9, 1, 80)]),
        defective=np.arange(280) >= 200,
        networks=[
            NetworkRow("found", 0.9561, 0.9923, 0.0283, 0.0717, 4.47, 3.14, True),
            NetworkRow("always fine", 0.5, None, 1.0, 0.0, None, None, False),
        ],
        mistakes=[
            Mistake(draw.integers(0, 256, (40, 50, c), np.uint8), "fine", "crack", 0.9, f"part_{c}.png") for c in (1, 3)
        ],
        latency_samples_ms=4 + draw.gamma(2.0, 0.1, 500),
        stages=[StageRow("data", "ab" * 32, 4.2, True), StageRow("search", "cd" * 32, 3_725.0, False)],
        bundle="castings-4.bundle",
        key_note="key 9f3c",
        data_note="1,726 test images",
        notes=["A first note.", "A second note."],
        versions={"python": "3.11.9"},
        next_command="station install castings-4.bundle",
    )


def minimal() -> RunReport:
    return replace(
        full(),
        accepted=False,
        good=None,
        threshold=None,
        reject_scores=None,
        defective=None,
        budgets=[
            Budget("latency", "ms", None, None, 4.47, True),
            Budget("size", "MB", 1.0, None, 3.14, False),
        ],
        search_points=points(1),
        shortlist=[],
        curves=[],
        acceptance=[],
        networks=[NetworkRow("found", 0.9561, None, None, None, 4.47, 3.14, True)],
        mistakes=[],
        latency_samples_ms=np.array([]),
        notes=[],
    )


def studied(good: str | None = "fine") -> Robustness:
    curves = [
        RobustnessCurve(name, kind, [0.9] * 6, [good and 0.05] * 6, [good and 0.1] * 6)
        for name in ("found", "plain")
        for kind in ("dust", "shift")
    ]
    first = RobustnessRow("found", 0.956, 0.871, 0.123, 0.234, "dust", 0.765, None)
    second = replace(first, name="plain", difference=(-0.0123, -0.0246, 0.0004))
    return Robustness(1726, good, [first, second], curves)


class Page(HTMLParser):
    """Reads a page to its end and keeps what the tests ask about; fails on a tag that does not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.ids += [value or "" for key, value in attrs if key == "id"]
        self.references += [value or "" for key, value in attrs if key in {"src", "href", "xlink:href"}]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def named_figures(text: str) -> list[str]:
    return [name for name in NAMES if f'id="{name}-figure_1"' in text]


def test_a_full_report_shows_every_figure_and_every_part() -> None:
    text = render(full())
    page = Page(text)
    assert named_figures(text) == NAMES
    assert page.tags["svg"] == len(NAMES)
    assert page.tags["img"] == 2
    assert page.tags["section"] == 10


def test_a_minimal_report_leaves_out_what_it_has_no_data_for() -> None:
    text = render(minimal())
    page = Page(text)
    assert named_figures(text) == ["search-latency", "search-size", "confusion"]
    assert page.tags["img"] == 0
    assert "this line sorts, it has no good class" in page.text
    assert "No picture was kept" in page.text
    assert "Not accepted" in page.text
    assert "no budget" in page.text


def test_worse_pictures_have_a_section_where_they_were_studied() -> None:
    page = Page(render(replace(full(), robustness=studied())))
    assert page.tags["section"] == 11
    assert page.tags["svg"] == len(NAMES) + 2
    assert [name for name, times in Counter(page.ids).items() if times > 1] == []
    for shown in ("The 1,726 test images made worse in 2 ways, by five degrees each: dust, shift.", "95.6 %", "87.1 %",
                  "-1.2 (-2.5 to +0.0)", "12.3 %", "23.4 %", "76.5 %"):  # fmt: skip
        assert shown in page.text
    sorting = render(replace(minimal(), robustness=studied(None)))
    assert "Escape, mean" not in Page(sorting).text
    assert 'id="robust-accuracy-figure_1"' in sorting
    assert "robust-escape" not in sorting
    assert "What happens at the station" not in render(full())


def test_what_goes_to_a_person_has_a_section() -> None:
    escapes = MistakeRow("Escape (defects passed)", (0.041, 0.03, 0.05), (0.012, 0.01, 0.02))
    review = Review(1726, (0.031, 0.021, 0.047), (0.025, 0.02, 0.03), (0.006, 0.002, 0.01), [escapes], "So & so.")
    page = Page(render(replace(full(), review=review)))
    assert page.tags["section"] == 11
    assert [name for name, times in Counter(page.ids).items() if times > 1] == []
    for shown in ("Of the 1,726 test images the station would send 3.1 % (2.1 – 4.7 %) to a person",
                  "2.5 % for a score",
                  "0.6 % for a look", "So & so.", "4.1 %", "1.2 %", "1.0 – 2.0 %"):  # fmt: skip
        assert shown in page.text
    sorting = Page(render(replace(minimal(), review=review))).text
    assert "all for a look unlike the training images" in sorting
    assert "near the threshold," not in sorting
    assert "What goes to a person" not in render(full())


def test_a_report_without_search_points_or_confusion_still_reads() -> None:
    bare = replace(minimal(), search_points=[], confusion=np.zeros((0, 0), int), classes=[], stages=[], budgets=[])
    assert Page(render(bare)).tags["svg"] == 0


@pytest.mark.parametrize("report", [full(), minimal()], ids=["full", "minimal"])
def test_the_page_needs_nothing_from_outside(report: RunReport) -> None:
    text = render(report)
    page = Page(text)
    assert "http" not in text
    assert "@import" not in text
    assert page.tags["script"] == page.tags["link"] == 0
    assert all(reference.startswith(("#", "data:image/")) for reference in page.references)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


@pytest.mark.parametrize("report", [full(), minimal()], ids=["full", "minimal"])
def test_ids_are_unique_and_every_reference_inside_the_page_meets_one(report: RunReport) -> None:
    text = render(report)
    page = Page(text)
    assert [name for name, times in Counter(page.ids).items() if times > 1] == []
    wanted = {r[1:] for r in page.references if r.startswith("#")} | set(re.findall(r"url\(#([^)]*)\)", text))
    assert wanted
    assert wanted <= set(page.ids)


def test_it_is_called_faultless_only_when_nothing_was_decided_wrongly() -> None:
    said = "None of the test images was decided wrongly"
    assert said in Page(render(replace(minimal(), confusion=np.diag([40, 60])))).text
    assert said not in Page(render(minimal())).text


def test_text_of_the_user_is_escaped_everywhere() -> None:
    evil = "<script>alert('x')</script>&\"$a$b.png"
    report = full()
    page_text = render(
        replace(
            report,
            line=evil,
            headline=evil,
            labels=["fine", evil],
            notes=[evil],
            bundle=evil,
            next_command=evil,
            versions={evil: evil},
            curves=[replace(report.curves[0], name=evil)],
            classes=[replace(report.classes[0], label=evil)],
            mistakes=[replace(report.mistakes[0], path=evil, truth=evil)],
        )
    )
    page = Page(page_text)
    assert page.tags["script"] == 0
    assert page.text.count(evil) >= 8
    assert "<script" not in page_text


def test_the_same_report_gives_the_same_bytes() -> None:
    assert render(full()) == render(full())


def test_the_values_shown_are_those_given() -> None:
    text = Page(render(full())).text
    for shown in (
        [
            "Castings, line 4",
            "station 12",
            "9 March 2026, 08:05 UTC",
            "Accepted",
            "0.4375",
            "12,345 networks",
        ],
        ["95.6 %", "94.0 – 96.8 %", "2.8 %", "1.3 – 5.3 %", "≤ 5.0 %", "7.2 %", "0.992", "0.987 – 0.996"],
        ["4.47 ms", "predicted 4.31 ms", "budget 5.00 ms", "≤ 5.00 ms", "3.14 MB", "412,345", "91.2 %"],
        ["ab" * 32, "1 h 02 min", "taken over", "1,504", "part_1.png", "station install castings-4.bundle"],
    ):
        assert [value for value in shown if value not in text] == []
    assert text.count("✗ missed") == 2  # the tile of overkill and its row


def test_wrong_decisions_in_the_histogram_are_counted_from_the_threshold_on() -> None:
    scores, defective = np.array([0.1, 0.5, 0.9, 0.4, 0.5, 0.8]), np.array([False] * 3 + [True] * 3)
    drawn = figures.reject_scores(scores, defective, 0.5)
    assert "Good: 2 of 3 rejected" in drawn
    assert "Defective: 1 of 3 passed" in drawn
    assert "threshold 0.5" in drawn


def test_the_confusion_matrix_writes_counts_and_row_shares() -> None:
    drawn = figures.confusion_matrix(np.array([[1504, 116], [0, 103]]), ["fine", "crack"])
    assert all(f">{shown}<" in drawn for shown in ("1,504", "92.8 %", "116", "7.2 %", "0", "103", "100.0 %"))


def test_the_latency_figure_names_its_percentiles_and_a_budget_that_was_missed() -> None:
    drawn = figures.latency_distribution(np.linspace(4.0, 6.0, 201), 3.0)
    assert all(f">{shown}<" in drawn for shown in ("median 5 ms", "95 % within 5.9 ms", "budget 3 ms"))
    assert "median 2 ms" in figures.latency_distribution(np.full(9, 2.0), None)


def test_only_the_genome_asked_for_is_marked_in_the_search() -> None:
    assert ">chosen<" in figures.score_against_size(points(40), GENOME, 4.0)
    assert ">chosen<" not in figures.score_against_size(points(40), "another", 4.0)


def test_a_search_without_a_front_is_drawn_too() -> None:
    drawn = figures.score_against_latency([replace(p, on_front=False) for p in points(9)], GENOME, 5.0)
    assert drawn.count(">budget 5 ms<") == 1


def test_many_points_are_drawn_as_one_picture() -> None:
    few, many = (figures.score_against_latency(points(count), GENOME, 5.0) for count in (500, 6000))
    assert few.count("<use") > 500
    assert many.count("<use") < 1300  # the 1,200 of the front stay sharp
    assert len(many) < 1_000_000


def test_letters_that_matplotlib_lacks_are_left_to_the_browser() -> None:
    assert "良品" in figures.confusion_matrix(np.eye(2, dtype=int), ["良品", "不良"])


def test_pictures_keep_their_shape_and_large_ones_are_made_smaller() -> None:
    tall = Mistake(np.full((900, 450, 3), 200, np.uint8), "a", "b", 0.5, "tall.png")
    small = Mistake(np.full((20, 30, 1), 90, np.uint8), "a", "b", 0.5, "small.png")
    page = Page(render(replace(full(), mistakes=[tall, small])))
    encoded = [r.split(",", 1)[1] for r in page.references if r.startswith("data:image/jpeg")]
    opened = [Image.open(io.BytesIO(base64.b64decode(code))) for code in encoded]
    assert [image.size for image in opened] == [(160, 320), (30, 20)]
    assert [image.mode for image in opened] == ["RGB", "L"]
    assert opened[1].getpixel((10, 10)) == pytest.approx(90, abs=2)


def test_more_mistakes_than_fit_are_counted_and_not_drawn() -> None:
    report = full()
    page = Page(render(replace(report, mistakes=report.mistakes[:1] * (MOST_MISTAKES + 5))))
    assert page.tags["img"] == MOST_MISTAKES
    assert f"{MOST_MISTAKES} of {MOST_MISTAKES + 5} are shown" in page.text


def test_write_puts_the_page_in_place_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("an earlier page")
    write(full(), path)
    assert path.read_text(encoding="utf-8") == render(full())
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_write_leaves_the_earlier_page_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("an earlier page")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(full(), path)
    assert path.read_text() == "an earlier page"
    assert list(tmp_path.iterdir()) == [path]


def test_the_page_of_two_thousand_points_stays_small() -> None:
    text = render(replace(full(), search_points=points(2000)))
    assert len(text.encode()) < 3_000_000
    assert "2,000 are drawn" in unescape(text)
