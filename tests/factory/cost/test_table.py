from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factory.cost import table
from factory.cost.book import LatencyBook
from factory.cost.latency import LatencyModel
from factory.cost.transfer import fit_latency
from factory.profiles import BudgetLimits
from factory.spaces.plan import Plan
from factory.spaces.residual import parse
from factory.spaces.restriction import allows, parse_restriction
from tests.factory.cost.conftest import DEVICE, PICTURE, Ticks, drawn
from tests.factory.cost.test_latency import LAW, timed

LIMITS = BudgetLimits(device="bench", latency_ms=0.5, size_mb=1.0)


class MadeUp(LatencyBook):
    """A book of a machine on which a known law holds, that counts how often it is asked."""

    def __init__(self, runs: Path, factor: float = 1.0) -> None:
        super().__init__(runs, DEVICE)
        self.factor, self.asked = factor, list[int]()

    def measure(self, plans: Sequence[Plan], tick: Callable[[], None]) -> list[float]:
        self.asked.append(len(plans))
        for _ in plans:
            tick()
        return list(self.factor * timed(list(plans), 0.03))


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.cost.design.DRAWS", 500)


@pytest.mark.usefixtures("_quick")
def test_the_table_is_measured_fitted_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MEASURED", 14)
    small = LIMITS.model_copy(update={"latency_ms": 0.01})

    def measured(folder: Path, tick: Callable[[], None]) -> dict[str, float]:
        folder.mkdir()
        table.measure_table(PICTURE, 3, small, LatencyBook(tmp_path / "runs", DEVICE), folder, tick)
        read = table.load_table(folder)
        assert read.model == fit_latency([read.plan(g) for g in read.measured], list(read.measured.values()))
        return read.measured

    ticks = Ticks()
    rows = measured(tmp_path / "one", ticks)
    assert len(rows) == ticks.count == 14
    assert measured(tmp_path / "two", lambda: None) == rows  # all out of the book
    assert (tmp_path / "two" / "latency.json").read_bytes() == (tmp_path / "one" / "latency.json").read_bytes()


def test_the_whole_design_is_asked_of_the_book_in_one_call(tmp_path: Path) -> None:
    book, few = MadeUp(tmp_path), parse_restriction("kinds=mb+depths=1,2")
    table.measure_table(PICTURE, 3, LIMITS, book, tmp_path, lambda: None, few)
    assert book.asked == [table.MEASURED]
    read = table.load_table(tmp_path)
    assert len(read.measured) == table.MEASURED
    assert all(allows(few, parse(genome)) for genome in read.measured)


def test_a_device_that_others_teach_is_measured_half_as_much_and_known_as_well(tmp_path: Path) -> None:
    book, other = MadeUp(tmp_path), MadeUp(tmp_path, factor=3.0)
    table.measure_table(PICTURE, 3, LIMITS, book, tmp_path, lambda: None, others=[other])
    assert (book.asked, other.asked) == ([table.TAUGHT], [table.MEASURED])
    read = table.load_table(tmp_path)
    assert len(read.model.teachers) == 1
    errors = [abs(read.model.predict(p) / ms - 1) for p, ms in zip(drawn(80, 9), timed(drawn(80, 9)), strict=True)]
    assert np.median(errors) < 0.03
    again = table.load_table(tmp_path).with_measured({})
    assert again.model == read.model


def test_more_measurements_are_kept_and_the_model_fitted_to_all(tmp_path: Path) -> None:
    empty = table.Table(PICTURE, 3, {}, LatencyModel(fit_latency(drawn(20), list(timed(drawn(20)))).law))
    genomes: dict[str, Any] = {
        f"stem_w8_s1-basic_w{w}_d{d}_k3_e1_s1-mb_w64_d1_k3_e2_s2": 0.0 for w in (8, 16, 24, 32) for d in (1, 2)
    }
    rows = {genome: float(timed([empty.plan(genome)])[0]) for genome in genomes}
    first = empty.with_measured(dict(list(rows.items())[:5]))
    both = first.with_measured(dict(list(rows.items())[5:]))
    assert both.measured == rows
    assert both == empty.with_measured(rows)
    assert len(first.measured) == 5  # the one it came from is as it was
    assert LAW.size == len(both.model.law.weights)
