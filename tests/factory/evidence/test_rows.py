import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from factory.evidence.rows import compare, difference, size_groups, verdict

Array = NDArray[np.float64]
RNG = np.random.default_rng(2)
TRUTH: Array = RNG.normal(size=200)
GOOD: Array = TRUTH + RNG.normal(size=200)
POOR: Array = TRUTH + 5 * RNG.normal(size=200)
SIZES = RNG.integers(1, 5, 200)


def found(scores: dict[str, Array], sizes: NDArray[np.int64] = SIZES) -> dict[str, Any]:
    return compare(scores, TRUTH, sizes, 0)


def test_a_row_says_what_independent_code_says() -> None:
    document = found({"poor": POOR, "good": GOOD})
    assert [row["score"] for row in document["rows"]] == ["good", "poor"]
    row = document["rows"][0]
    assert row["n"] == 200
    assert row["spearman"] == pytest.approx(scipy.stats.spearmanr(GOOD, TRUTH).statistic)
    assert row["kendall"] == pytest.approx(scipy.stats.kendalltau(GOOD, TRUTH).statistic)
    assert row["low"] < row["spearman"] < row["high"]
    best = np.argsort(-GOOD)
    assert row["best_of_top10"] == TRUTH[best[:10]].max()
    assert row["top_recall"] == len(set(best[:20]) & set(np.argsort(-TRUTH)[:20])) / 20
    members = [np.equal(SIZES, size) for size in range(1, 5)]
    inside = [scipy.stats.spearmanr(GOOD[own], TRUTH[own]).statistic for own in members]
    assert row["within_size"] == pytest.approx(np.mean(inside))
    assert row["groups"] == 4
    assert document["size_groups"].startswith("equal parameters")


def test_networks_without_a_value_are_left_out_of_that_score_alone() -> None:
    holed = np.where(np.arange(200) % 4 == 0, math.nan, GOOD)
    document = found({"holed": holed, "poor": POOR})
    rows = {row["score"]: row for row in document["rows"]}
    assert (rows["holed"]["n"], rows["poor"]["n"]) == (150, 200)
    known = np.isfinite(holed)
    assert rows["holed"]["spearman"] == pytest.approx(scipy.stats.spearmanr(GOOD[known], TRUTH[known]).statistic)


def test_scores_that_rank_nothing_come_last_and_have_no_correlation() -> None:
    constant, empty = np.ones(200), np.full(200, math.nan)
    document = found({"empty": empty, "constant": constant, "poor": POOR})
    assert [row["score"] for row in document["rows"]] == ["poor", "empty", "constant"]
    assert all(row["spearman"] is None and row["low"] is None for row in document["rows"][1:])
    assert verdict(found({"constant": constant})).startswith("No score ranks")


def test_sizes_that_are_rarely_equal_make_ten_bins() -> None:
    sizes = np.arange(200)
    keys, fewest, kind = size_groups(sizes)
    assert kind.startswith("10 bins")
    assert np.unique(keys, return_counts=True)[1].tolist() == [20] * 10
    assert fewest == 5
    assert (np.diff(keys) >= 0).all()


def test_one_common_size_is_a_group_and_the_rare_ones_are_none() -> None:
    sizes = np.where(np.arange(200) < 30, 7, np.arange(200))
    row = found({"good": GOOD}, sizes)["rows"][0]
    assert row["groups"] == 1
    assert row["within_size"] == pytest.approx(scipy.stats.spearmanr(GOOD[:30], TRUTH[:30]).statistic)


def test_the_difference_is_paired() -> None:
    gain = difference(GOOD, POOR, TRUTH, 0)
    wanted = scipy.stats.spearmanr(GOOD, TRUTH).statistic - scipy.stats.spearmanr(POOR, TRUTH).statistic
    assert gain["difference"] == pytest.approx(wanted)
    assert gain["low"] is not None and gain["high"] is not None
    assert 0 < gain["low"] < wanted < gain["high"]
    assert difference(GOOD, 2 * GOOD, TRUTH, 0) == {"difference": 0.0, "low": 0.0, "high": 0.0}
    assert difference(GOOD, np.full(200, math.nan), TRUTH, 0)["difference"] is None


@pytest.mark.parametrize(
    ("swap", "params", "words"),
    [
        (GOOD, POOR, "SWAP beats parameters beyond chance"),
        (POOR, GOOD, "parameters beat SWAP beyond chance"),
        (GOOD, GOOD + 1e-9 * POOR, "cannot be told apart"),
    ],
)
def test_the_verdict_says_who_wins(swap: Array, params: Array, words: str) -> None:
    said = verdict(found({"swap": swap, "params": params}))
    assert words in said
    assert "ranks best" in said


def test_without_parameters_there_is_nothing_to_beat() -> None:
    document = found({"swap": GOOD})
    assert document["against_params"] == {}
    assert verdict(document).startswith("swap ranks best")
