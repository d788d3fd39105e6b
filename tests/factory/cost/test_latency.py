from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from factory.cost import table
from factory.cost.book import LatencyBook
from factory.cost.latency import LatencyModel, features, fit_latency
from factory.profiles import BudgetLimits
from factory.spaces.residual import parse, plan
from factory.spaces.restriction import allows, parse_restriction
from tests.factory.cost.conftest import DEVICE, PICTURE, Ticks, drawn

LAW = np.array([0.004, 0.03, 0.05, 0.2, 0.1, 0.01, 0.02, 0.07, 0.015])  # ms a unit of each feature


def test_the_fit_recovers_a_linear_law() -> None:
    plans = drawn(40)
    model = fit_latency(plans, [float(features(p) @ LAW) for p in plans])
    for unseen in drawn(30, seed=1):
        assert model.predict(unseen) == pytest.approx(features(unseen) @ LAW, rel=1e-3)
    assert 0 <= model.margin < 0.02
    assert model.median_error < 0.01


def test_predictions_are_positive_and_the_margin_covers_nine_of_ten() -> None:
    plans, rng = drawn(60), np.random.default_rng(0)
    truth = [float(features(p) @ LAW * rng.lognormal(0, 0.2)) for p in plans]
    model = fit_latency(plans, truth)
    assert all(weight >= 0 for weight in model.weights)
    assert all(model.predict(p) > 0 for p in drawn(200, seed=2))
    assert all(model.upper(p) == pytest.approx(model.predict(p) * (1 + model.margin)) for p in plans)
    unseen = drawn(300, seed=3)
    covered = [features(p) @ LAW * rng.lognormal(0, 0.2) <= model.upper(p) for p in unseen]
    assert 0.75 < np.mean(covered) < 0.99
    assert 0.05 < model.median_error < 0.3  # half the errors of a spread of 20 % lie within 13.5 %


def test_a_larger_network_is_never_predicted_faster() -> None:
    model = LatencyModel(tuple(LAW), 0.1, 0.05)
    small, *larger = (
        plan(parse(f"stem_w8_s1-basic_w{w}_d{d}_k{k}_e{e}_s1-basic_w32_d1_k3_e1_s2"), PICTURE, 3)
        for w, d, k, e in ((8, 1, 3, 1), (32, 1, 3, 1), (8, 2, 3, 1), (8, 1, 5, 1), (8, 1, 3, 2))
    )
    assert all(model.predict(other) > model.predict(small) for other in larger)


@pytest.mark.usefixtures("_quick")
def test_the_table_is_measured_around_the_budget_fitted_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "MEASURED", 14)
    monkeypatch.setattr(table, "SCOUTS", 4)
    monkeypatch.setattr(table, "DRAWS", 400)
    limits = BudgetLimits(device="bench", latency_ms=0.5, size_mb=1.0)

    def measured(folder: Path, tick: Callable[[], None]) -> Sequence[dict[str, object]]:
        folder.mkdir()
        table.measure_table(PICTURE, 3, limits, LatencyBook(tmp_path / "runs", DEVICE), folder, tick)
        model, document = table.load_table(folder)
        for row in document["measured"]:
            assert row["predicted_ms"] == round(model.predict(plan(parse(row["genome"]), PICTURE, 3)), 5)
        rows: Sequence[dict[str, object]] = document["measured"]
        return rows

    ticks = Ticks()
    rows = measured(tmp_path / "one", ticks)
    assert len({row["genome"] for row in rows}) == len(rows) == ticks.count == 14
    assert measured(tmp_path / "two", lambda: None) == rows  # all out of the book
    few = parse_restriction("kinds=mb+depths=1,2")
    table.measure_table(PICTURE, 3, limits, LatencyBook(tmp_path / "runs", DEVICE), tmp_path, lambda: None, few)
    assert all(allows(few, parse(row["genome"])) for row in table.load_table(tmp_path)[1]["measured"])
