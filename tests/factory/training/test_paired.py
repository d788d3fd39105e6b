import math
from itertools import product

import numpy as np
import pytest

from factory.training.metrics import balanced_accuracy, bootstrap
from factory.training.paired import balanced_share, difference, gain, mcnemar


def flags(only_first: int, only_second: int, both: int = 5, neither: int = 3) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(1, 0)] * only_first + [(0, 1)] * only_second + [(1, 1)] * both + [(0, 0)] * neither
    first, second = np.array(pairs, bool).T
    return first, second


@pytest.mark.parametrize(("b", "c"), list(product((0, 1, 4, 9), (0, 2, 5, 11))))
def test_mcnemar_is_the_binomial_sum(b: int, c: int) -> None:
    total = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert mcnemar(*flags(b, c)) == pytest.approx(min(1.0, 2 * total))


def test_the_balanced_share_is_that_of_the_metrics_with_its_bootstrap() -> None:
    rng = np.random.default_rng(1)
    truth = np.repeat([0, 1, 2], (150, 60, 20))
    called = np.where(rng.random(230) < 0.8, truth, (truth + 1) % 3)
    found = balanced_share(truth, called == truth)
    assert found.value == pytest.approx(balanced_accuracy(truth, called))
    low, high = bootstrap(truth, lambda rows: balanced_accuracy(truth[rows], called[rows]))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)
    assert balanced_share(truth, np.ones(230, bool)).low == 1


def test_a_difference_agrees_with_the_bootstrap_where_pairs_abound() -> None:
    rng = np.random.default_rng(2)
    truth = np.repeat([0, 1], (500, 300))
    first = rng.random(800) < 0.8
    second = first ^ (rng.random(800) < np.where(first, 0.05, 0.4))
    found = difference(truth, first, second)
    change = second.astype(float) - first
    assert found.value == pytest.approx((change[:500].mean() + change[500:].mean()) / 2)
    low, high = bootstrap(truth, lambda rows: float(np.mean([change[rows][truth[rows] == k].mean() for k in (0, 1)])))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)
    swapped = difference(truth, second, first)
    assert (-swapped.value, -swapped.high, -swapped.low) == pytest.approx((found.value, found.low, found.high))


def test_no_pair_that_differs_leaves_a_doubt_that_more_images_lessen() -> None:
    widths = []
    for count in (1, 10, 300):
        truth, right = np.zeros(count, np.int64), np.ones(count, bool)
        found = difference(truth, right, right)
        assert (found.value, found.low) == (0, -found.high)
        widths.append(found.high)
    assert widths[0] <= 1
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == pytest.approx(1.96 / 302)  # half a pair each way


def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    held, drawn = 0, 1500
    truth = np.repeat([0, 1], (300, 20))
    for _ in range(drawn):
        change = np.concatenate([rng.choice([-1, 0, 1], 300, p=(0.02, 0.93, 0.05)),
                                 rng.choice([-1, 0, 1], 20, p=(0.1, 0.85, 0.05))])  # fmt: skip
        found = difference(truth, change < 0, change > 0)
        held += found.low <= (0.03 - 0.05) / 2 <= found.high
    assert 0.935 <= held / drawn <= 0.985


@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.03), (3, 0.03), (5, 0.03), (3, 0.0)])
def test_gain_holds_the_truth_as_often_as_it_says_with_few_seeds_too(seeds: int, spread: float) -> None:
    rng = np.random.default_rng(1)
    truth, held, tries = np.array([0] * 200 + [1] * 100), 0, 1000
    for _ in range(tries):
        values = rng.normal(0, spread, (seeds, 1)) + rng.normal(0, 0.1, 300) + rng.normal(0, 0.1, (seeds, 300))
        found = gain(values + 0.2, truth)
        held += found.low <= 0.2 <= found.high
    assert held / tries > 0.94


def test_gain_is_as_wide_as_the_variances_of_seeds_and_of_images_say() -> None:
    rng = np.random.default_rng(2)
    truth = np.array([0] * 200 + [1] * 50)
    seeds, images = rng.normal(0, 0.3, 40), rng.normal(0, 1, 250)
    values = seeds[:, None] + images[None, :]
    variance = seeds.var() / 40 + sum(images[truth == k].var() / (truth == k).sum() for k in (0, 1)) / 4
    found, half = gain(values, truth), 1.96 * float(np.sqrt(variance))
    assert found.value == pytest.approx((values[:, :200].mean() + values[:, 200:].mean()) / 2)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.05)
    three = gain(values, truth, among=3)
    assert three.high - three.low == pytest.approx(2 * half * 2.394 / 1.960, rel=0.05)  # normal, 1 - 0.025 / 3


def test_gain_that_is_equal_everywhere_is_sure() -> None:
    found = gain(np.full((3, 10), 0.25), np.array([0, 1] * 5))
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_a_paired_difference_is_narrower_than_its_two_sides() -> None:
    rng = np.random.default_rng(1)
    truth = np.repeat([0, 1], [300, 100])
    one = rng.random(400)
    other = one - 0.05 + rng.normal(0, 0.01, 400)
    found = gain((one - other)[None], truth)
    by_hand = np.mean([(one - other)[truth == k].mean() for k in (0, 1)])
    assert found.value == pytest.approx(by_hand)
    assert found.low < by_hand < found.high
    assert found.high - found.low < 0.005
    same = gain((one - one)[None], truth)
    assert (same.value, same.low, same.high) == (0, 0, 0)
