import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from factory.evidence import statistics
from factory.evidence.statistics import (
    Statistic,
    best_of_top,
    bootstrap,
    kendall,
    regret,
    spearman,
    top_recall,
    within_groups,
)

Array = NDArray[np.float64]


def pairs(highest: int = 12) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Few distinct values, so that there are ties."""
    return st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=highest)


def split(entries: list[tuple[int, int]]) -> tuple[Array, Array]:
    score, truth = np.array(entries, np.float64).T
    return score, truth


def networks(number: int, seed: int = 0, noise: float = 1.0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=number)
    return truth + noise * rng.normal(size=number), truth


def average_ranks(values: Array) -> list[float]:
    return [np.sum(values < value) + (np.sum(values == value) + 1) / 2 for value in values]


def constant(values: Array) -> bool:
    return len(set(values.tolist())) == 1


@settings(deadline=None)
@given(pairs())
def test_spearman_is_pearson_of_average_ranks(entries: list[tuple[int, int]]) -> None:
    score, truth = split(entries)
    if constant(score) or constant(truth):
        assert math.isnan(spearman(score, truth))
        return
    wanted = np.corrcoef(average_ranks(score), average_ranks(truth))[0, 1]
    assert spearman(score, truth) == pytest.approx(wanted, abs=1e-12)
    assert spearman(score, truth) == pytest.approx(scipy.stats.spearmanr(score, truth).statistic, abs=1e-12)


@settings(deadline=None)
@given(pairs())
def test_kendall_counts_pairs_that_agree(entries: list[tuple[int, int]]) -> None:
    score, truth = split(entries)
    if constant(score) or constant(truth):
        assert math.isnan(kendall(score, truth))
        return
    both = [(np.sign(a - c), np.sign(b - d)) for (a, b), (c, d) in itertools.combinations(entries, 2)]
    agreement = sum(a * b for a, b in both)
    wanted = agreement / math.sqrt(sum(a != 0 for a, _ in both) * sum(b != 0 for _, b in both))
    assert kendall(score, truth) == pytest.approx(wanted, abs=1e-12)


def test_a_perfect_order_correlates_fully_whatever_the_distances() -> None:
    score = np.array([0.1, 5.0, 5.1, 1e300])
    for statistic in (spearman, kendall):
        assert statistic(score, [1, 2, 3, 4]) == 1.0
        assert statistic(score, [4, 3, 2, 1]) == -1.0


def rankings(score: Array) -> list[tuple[int, ...]]:
    """Every order of the networks in which no score rises."""
    orders = itertools.permutations(range(len(score)))
    return [order for order in orders if all(score[a] >= score[b] for a, b in itertools.pairwise(order))]


@settings(deadline=None, max_examples=60)
@given(pairs(6), st.data())
def test_the_top_is_the_least_flattering_of_all_orders(entries: list[tuple[int, int]], data: st.DataObject) -> None:
    score, truth = split(entries)
    k = data.draw(st.integers(1, len(entries)))
    best = min(max(truth[i] for i in order[:k]) for order in rankings(score))
    assert best_of_top(score, truth, k) == best
    assert regret(score, truth, k) == max(truth) - best
    share = data.draw(st.floats(0.01, 1))
    number = max(1, round(share * len(entries)))
    bar = sorted(truth, reverse=True)[number - 1]
    found = min(sum(truth[i] >= bar for i in order[:number]) for order in rankings(score))
    assert top_recall(score, truth, share) == pytest.approx(found / number)


def test_the_top_by_hand() -> None:
    truth = [90.0, 91.0, 92.0, 93.0, 94.0, 70.0, 60.0, 50.0, 40.0, 30.0]
    score = [10.0, 9.0, 8.0, 1.0, 2.0, 7.0, 6.0, 5.0, 4.0, 3.0]
    assert [best_of_top(score, truth, k) for k in (1, 2, 3, 9, 10)] == [90, 91, 92, 94, 94]
    assert [regret(score, truth, k) for k in (1, 3, 9)] == [4, 2, 0]
    assert top_recall(score, truth, 0.2) == 0.0
    assert top_recall(score, truth, 0.5) == 0.6
    assert top_recall(truth, truth, 0.3) == top_recall(score, truth, 1) == 1.0


def test_all_networks_of_one_score_are_worth_the_worst_of_them() -> None:
    truth = [3.0, 1.0, 2.0]
    assert best_of_top([5, 5, 5], truth, 1) == 1.0
    assert regret([5, 5, 5], truth, 2) == 1.0


def by_loop(score: Array, truth: Array, statistic: Statistic, draws: int, seed: int) -> list[float]:
    drawn = np.random.default_rng(seed).integers(len(score), size=(draws, len(score)))
    return [statistic(score[rows], truth[rows]) for rows in drawn]


def plain_spearman(score: Array, truth: Array) -> float:
    return float(scipy.stats.spearmanr(score, truth).statistic)


@pytest.mark.parametrize(
    ("statistic", "reference"),
    [(spearman, plain_spearman), (kendall, kendall), (partial(top_recall, share=0.2), partial(top_recall, share=0.2))],
    ids=["spearman", "kendall", "top recall"],
)
@pytest.mark.parametrize("block", [1, 100, 2**21])
def test_the_interval_is_that_of_draws_one_by_one(
    statistic: Statistic, reference: Statistic, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "BLOCK", block)
    score, truth = networks(40)
    values = sorted(by_loop(score, truth, reference, 101, seed=5))
    low, high = bootstrap(score, truth, statistic, 101, seed=5)
    # 2.5 % of the 100 steps from the first to the last of 101 sorted values
    assert low == pytest.approx((values[2] + values[3]) / 2)
    assert high == pytest.approx((values[97] + values[98]) / 2)


def test_the_interval_agrees_with_scipys() -> None:
    score, truth = networks(200)
    ours = bootstrap(score, truth, spearman, 2000, seed=1)
    theirs = scipy.stats.bootstrap(
        (score, truth), plain_spearman, paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=2
    ).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.015)
    assert ours[0] < spearman(score, truth) < ours[1]


def test_the_interval_depends_on_its_arguments_alone() -> None:
    score, truth = networks(30)
    first = bootstrap(score, truth, spearman, 200, seed=3)
    np.random.default_rng(0).normal(size=10)
    assert bootstrap(score, truth, spearman, 200, seed=3) == first
    assert bootstrap(score, truth, spearman, 200, seed=4) != first


def test_draws_of_one_network_alone_are_left_out() -> None:
    score, truth = np.array([1.0, 2.0]), np.array([1.0, 2.0])
    assert any(math.isnan(value) for value in by_loop(score, truth, spearman, 50, seed=0))
    assert bootstrap(score, truth, spearman, 50, seed=0) == (1.0, 1.0)


@pytest.mark.parametrize("statistic", [spearman, kendall])
@pytest.mark.parametrize("score", [[1.0], [2.0, 2.0, 2.0]])
def test_constant_input_has_no_correlation_and_no_interval(statistic: Statistic, score: list[float]) -> None:
    truth = list(range(len(score)))
    assert math.isnan(statistic(score, truth)) and math.isnan(statistic(truth, score))
    assert all(math.isnan(bound) for bound in bootstrap(score, truth, statistic, 20, seed=0))


def test_groups_count_once_each_and_only_where_they_can_be_ordered() -> None:
    groups = np.array(["a"] * 4 + ["b"] * 3 + ["c"] * 2 + ["d"] * 3)
    score = [1, 2, 3, 4, 1, 2, 3, 1, 2, 5, 5, 5]
    truth = [1, 2, 3, 4, 3, 1, 2, 9, 8, 1, 2, 3]
    assert within_groups(score, truth, groups, 3) == pytest.approx(((1 - 0.5) / 2, 2))
    assert within_groups(score, truth, groups, 2) == pytest.approx(((1 - 0.5 - 1) / 3, 3))
    assert within_groups(score, truth, groups, 4) == (1.0, 1)
    mean, number = within_groups(score, truth, groups, 5)
    assert math.isnan(mean) and number == 0


def test_groups_do_not_see_what_differs_between_them() -> None:
    score, truth = networks(300)
    groups = np.arange(300) % 30
    shifted = score - 100.0 * groups, truth + 100.0 * groups
    assert spearman(*shifted) < -0.9
    by_hand = [scipy.stats.spearmanr(score[groups == g], truth[groups == g]).statistic for g in range(30)]
    assert within_groups(*shifted, groups, 10) == pytest.approx((np.mean(by_hand), 30))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spearman([1, 2], [1, 2, 3]), "shapes"),
        (lambda: kendall([[1, 2]], [[1, 2]]), "shapes"),
        (lambda: spearman([], []), "shapes"),
        (lambda: spearman([1, math.nan], [1, 2]), "finite"),
        (lambda: kendall([1, 2], [1, math.inf]), "finite"),
        (lambda: bootstrap([1, math.nan], [1, 2], spearman, 10, 0), "finite"),
        (lambda: best_of_top([1, 2], [1, 2], 0), "k must be 1 to 2"),
        (lambda: regret([1, 2], [1, 2], 3), "k must be 1 to 2"),
        (lambda: top_recall([1, 2], [1, 2], 0), "share"),
        (lambda: top_recall([1, 2], [1, 2], 1.1), "share"),
        (lambda: bootstrap([1, 2], [1, 2], spearman, 0, 0), "draws"),
        (lambda: within_groups([1, 2], [1, 2], np.array([1]), 1), "keys"),
    ],
)
def test_what_cannot_be_ranked_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
