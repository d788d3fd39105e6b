import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from factory.training.metrics import (
    allowed_escapes,
    auroc,
    balanced_accuracy,
    balanced_loss,
    bootstrap,
    calibration_error,
    escape,
    operating_threshold,
    overkill,
    proportion,
    temperature,
)

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(2, 5), st.integers(5, 60))
def test_balanced_accuracy_is_sklearns(seed: int, classes: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.integers(0, classes, count)])
    decided = rng.integers(0, classes, len(truth))
    assert balanced_accuracy(truth, decided) == pytest.approx(balanced_accuracy_score(truth, decided))


@settings(deadline=None)
@given(SEEDS, st.integers(2, 5))
def test_balanced_loss_is_torchs_mean_of_the_means_of_classes(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.integers(0, classes, 20)])
    logits = (rng.standard_normal((len(truth), classes)) * 20).astype(np.float32)
    wanted = [
        torch.nn.functional.cross_entropy(torch.tensor(logits[truth == k], dtype=torch.float64), torch.full((n,), k))
        for k in range(classes)
        if (n := int((truth == k).sum()))
    ]
    assert balanced_loss(truth, logits) == pytest.approx(float(sum(wanted)) / classes)


def pairs(positive: np.ndarray, negative: np.ndarray) -> float:
    """Area under the ROC as the share of pairs in the right order, ties half."""
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return float(wins) / (len(positive) * len(negative))


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.integers(2, 4))
def test_auroc_is_the_share_of_pairs_in_order(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.integers(0, classes, 20)])
    scores = rng.integers(1, 8, (len(truth), classes)) / 1.0  # few values: ties
    scores /= scores.sum(1, keepdims=True)
    for good in range(classes):
        reject = 1 - scores[:, good]
        assert auroc(truth, scores, good) == pytest.approx(pairs(reject[truth != good], reject[truth == good]))
    one_against_rest = [pairs(scores[truth == k, k], scores[truth != k, k]) for k in range(classes)]
    assert auroc(truth, scores, None) == pytest.approx(np.mean(one_against_rest))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_proportion_is_wilsons(drawn: tuple[int, int]) -> None:
    hits, total = drawn
    found, z, p = proportion(hits, total), 1.959963984540054, hits / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    assert found.value == p
    assert found.low == pytest.approx(middle - half, abs=1e-9)
    assert found.high == pytest.approx(middle + half, abs=1e-9)


def escapes(truth: np.ndarray, scores: np.ndarray, threshold: float) -> float:
    defects = scores[truth != 0]
    return float((defects < threshold).sum()) / len(defects)


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    """Classes (0 is good, at least one defect), reject scores, an escape limit; scores are often equal or extreme."""
    count = draw(st.integers(1, 40))
    apart = st.floats(1e-6, 1).map(lambda v: round(v, 12))  # between neighbouring doubles no threshold lies
    value = st.one_of(st.integers(1, 9).map(lambda i: i / 10), st.sampled_from([1e-9, 1e-7, 1 - 1e-9]), apart)
    truth = [1, *draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))]
    scores = draw(st.lists(value, min_size=count + 1, max_size=count + 1))
    return np.array(truth), np.array(scores), draw(st.sampled_from([0.001, 0.05, 0.1, 1 / 3, 0.5, 0.9, 0.999]))


def shown(escaped: int, defects: int, limit: float) -> bool:
    """Whether so few escapes would be seen in at most one of twenty sets if the rate were the limit."""
    chance = sum(math.comb(defects, k) * limit**k * (1 - limit) ** (defects - k) for k in range(escaped + 1))
    return chance <= 0.05


@settings(deadline=None, max_examples=300)
@given(scored())
def test_the_operating_threshold_is_the_largest_that_shows_the_escape_limit(
    drawn: tuple[np.ndarray, np.ndarray, float],
) -> None:
    truth, scores, limit = drawn
    found, defects = operating_threshold(truth, scores, 0, limit), int((truth != 0).sum())
    escaped = {t: round(escapes(truth, scores, t) * defects) for t in np.unique(scores)}
    candidates = [t for t, n in escaped.items() if n == 0 or shown(n, defects, limit)]
    assert 0 < found < 1
    assert ((scores >= found) == (scores >= max(candidates))).all()
    assert escapes(truth, scores, found) <= limit


@pytest.mark.parametrize(
    ("defects", "limit", "allowed"),
    # 59 without an escape show 5 % (0.95^59 = 0.048), 93 with one; 58 show nothing yet
    [
        (59, 0.05, 0),
        (92, 0.05, 0),
        (93, 0.05, 1),
        (58, 0.05, 0),
        (1, 0.5, 0),
        (5, 0.5, 0),
        (8, 0.5, 1),
        (1000, 0.1, 84),
    ],
)
def test_the_escapes_allowed_are_those_that_still_show_the_limit(defects: int, limit: float, allowed: int) -> None:
    assert allowed_escapes(defects, limit) == allowed
    assert allowed == 0 or shown(allowed, defects, limit)
    assert not shown(allowed + 1, defects, limit)


def test_a_threshold_chosen_on_one_set_keeps_the_limit_on_most_others() -> None:
    rng, missed = np.random.default_rng(0), 0
    for _ in range(200):
        val, test = rng.normal(1, 1, (2, 300))
        scores = 1 / (1 + np.exp(-val))
        threshold = operating_threshold(np.ones(300, np.int64), scores, 0, 0.1)
        missed += (1 / (1 + np.exp(-test)) < threshold).mean() > 0.1
    assert missed < 0.2 * 200


def test_the_threshold_lies_between_scores_so_that_rounding_does_not_decide() -> None:
    truth = np.array([0, 0, *[1] * 8])
    scores = np.array([0.1, 0.55, 0.3, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9, 0.9])
    assert operating_threshold(truth, scores, 0, 0.5) == pytest.approx((0.6 + 0.55) / 2)
    assert operating_threshold(truth, scores, 0, 0.1) == pytest.approx((0.3 + 0.1) / 2)


def test_escape_and_overkill_are_counted_by_hand() -> None:
    truth = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    rejected = np.array([True, False, False, False, True, False, True, False, True])
    assert escape(truth, rejected, 0).value == 2 / 5
    assert overkill(truth, rejected, 0).value == 1 / 4
    assert escape(truth, rejected, 0) == proportion(2, 5)
    assert overkill(truth, rejected, 0) == proportion(1, 4)


def test_the_bootstrap_resamples_within_classes_and_covers_what_theory_says() -> None:
    truth = np.repeat([0, 1], [300, 30])
    decided = truth.copy()
    decided[:60] = 1
    decided[-6:] = 0
    low, high = bootstrap(truth, lambda rows: balanced_accuracy(truth[rows], decided[rows]))
    sigma = 0.5 * math.sqrt(0.2 * 0.8 / 300 + 0.2 * 0.8 / 30)  # of the mean of two independent recalls of 0.8
    assert low == pytest.approx(0.8 - 1.96 * sigma, abs=0.25 * sigma)
    assert high == pytest.approx(0.8 + 1.96 * sigma, abs=0.25 * sigma)
    classes = []
    bootstrap(truth, lambda rows: classes.append(np.bincount(truth[rows]).tolist()) or 0.0)
    assert classes == [[300, 30]] * 1000
    assert bootstrap(truth, lambda rows: float(decided[rows].mean())) == bootstrap(
        truth, lambda rows: float(decided[rows].mean())
    )


def test_calibration_error_is_the_gap_of_each_bin_with_classes_alike() -> None:
    rng = np.random.default_rng(3)
    truth = rng.choice(3, 400, p=(0.6, 0.3, 0.1))
    logits = rng.normal(0, 2, (400, 3)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gap = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        own = [
            i for i in range(400) if low <= probabilities[i].max() < high or (high == 1 and probabilities[i].max() == 1)
        ]
        weights = [1 / (3 * np.sum(truth == truth[i])) for i in own]
        right = [float(probabilities[i].argmax() == truth[i]) for i in own]
        gap += abs(sum(w * (probabilities[i].max() - r) for i, w, r in zip(own, weights, right, strict=True)))
    assert calibration_error(truth, logits) == pytest.approx(gap, abs=1e-6)
    sure = np.full((4, 2), -50.0, np.float32)
    sure[np.arange(4), [0, 0, 1, 1]] = 50.0
    assert calibration_error(np.array([0, 0, 1, 1]), sure) == pytest.approx(0, abs=1e-9)
    assert calibration_error(np.array([1, 1, 0, 0]), sure) == pytest.approx(1)


def test_temperature_finds_how_much_logits_were_sharpened() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, (20_000, 4))
    cumulated = np.cumsum(np.exp(honest) / np.exp(honest).sum(1, keepdims=True), axis=1)
    truth = np.minimum((rng.random((20_000, 1)) > cumulated).sum(1), 3)
    found = temperature(truth, (2.5 * honest).astype(np.float32))
    assert found == pytest.approx(2.5, rel=0.04)
    grid = [balanced_loss(truth, (2.5 * honest / t).astype(np.float32)) for t in np.linspace(1.5, 4, 26)]
    assert balanced_loss(truth, (2.5 * honest / found).astype(np.float32)) <= min(grid) + 1e-5


def test_temperature_of_images_all_decided_rightly_is_that_of_one_doubt_a_class() -> None:
    truth = np.repeat([0, 1], [8, 8])
    logits = np.where(truth[:, None] == np.arange(2), 3.0, -3.0).astype(np.float32)
    certain = 1 / (1 + np.exp(-6 / temperature(truth, logits)))
    assert certain == pytest.approx(9 / 10, abs=1e-4)
