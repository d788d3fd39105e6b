import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import logit

from export.build.reference import CENTRES, MOST_VALUES, familiar, quantile_rank, reference, review_band
from export.runtime.drift.novelty import Novelty
from export.runtime.drift.reference import read_reference
from export.runtime.drift.statistics import Gauge
from export.runtime.strictjson import canonical_bytes


def frames(number: int, seed: int, grey: int = 100) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    smooth = rng.normal(grey, 10, (number, 1, 1, 1)) + rng.normal(0, 4, (number, 16, 16, 1))
    return smooth.clip(0, 255).astype(np.uint8)


def test_pictures_like_those_of_the_training_keep_the_limit_as_often_as_stated_and_others_do_not() -> None:
    told, looks = familiar(frames(400, 0), frames(399, 1), 0.05)
    gauge, novelty = Gauge(16, 16, 1), Novelty(told)
    later = np.array([novelty.of(gauge.measure(frame)) for frame in frames(1000, 2)])
    assert len(told.centres) == CENTRES
    assert (looks.novelty > told.limit).sum() == 19  # of 399 and one more to come, 20 may lie above: the rank is 380
    assert 0.02 < (later > told.limit).mean() < 0.09
    for unlike in (frames(20, 3, grey=220), 255 - frames(20, 3, grey=240), np.zeros((1, 16, 16, 1), np.uint8)):
        assert all(novelty.of(gauge.measure(frame)) > told.limit for frame in unlike)


def test_where_validation_is_too_small_for_the_share_the_limit_is_its_largest_novelty() -> None:
    told, looks = familiar(frames(100, 0), frames(50, 1), 0.005)
    assert quantile_rank(50, 0.005) > 50
    assert told.limit == looks.novelty.max()
    assert [quantile_rank(number, 0.005) for number in (199, 399, 1000)] == [199, 398, 996]


def test_fitting_twice_gives_the_same_and_equal_pictures_are_no_trouble() -> None:
    train, val = frames(60, 0), frames(30, 1)
    assert familiar(train, val, 0.01)[0] == familiar(train, val, 0.01)[0]
    even = np.full((30, 16, 16, 1), 90, np.uint8)
    told, _ = familiar(np.concatenate([even, even + 1]), val, 0.01)
    assert len(told.centres) == 2
    assert Novelty(told).of(Gauge(16, 16, 1).measure(even[0])) == pytest.approx(0, abs=1e-3)


def test_the_file_is_read_again_and_holds_a_sample_of_the_values() -> None:
    told, looks = familiar(frames(100, 0), frames(MOST_VALUES + 500, 1), 0.005)
    scores = np.linspace(0, 1, MOST_VALUES + 500)
    found = reference(told, looks, scores.tolist())

    class Told:
        reference = "reference.json"

    size = Gauge(16, 16, 1).size
    assert read_reference(Told(), {"reference.json": canonical_bytes(found)}, size) == found  # type: ignore[arg-type]
    for values in found.values.by_name().values():
        assert len(values) == MOST_VALUES
    assert abs(np.mean(found.values.score) - 0.5) < 0.03
    brightness = [own.brightness for own in looks.statistics]
    assert abs(np.mean(found.values.brightness) - np.mean(brightness)) < 0.5


@pytest.mark.parametrize("threshold", [0.02, 0.4, 0.97])
def test_the_band_is_as_wide_on_both_sides_in_log_odds_and_holds_its_share(threshold: float) -> None:
    scores = np.random.default_rng(0).beta(0.5, 0.5, 1000)
    band = review_band(scores, threshold, 0.02)
    assert band is not None
    assert band.low < threshold < band.high
    assert logit(threshold) - logit(band.low) == pytest.approx(logit(band.high) - logit(threshold), rel=1e-6)
    assert ((band.low <= scores) & (scores <= band.high)).sum() == 20


def test_a_band_of_no_share_is_none_and_scores_of_0_and_1_have_one() -> None:
    certain = np.array([0.0, 0.0, 1.0, 1.0])
    assert review_band(certain, 0.5, 0.0) is None
    band = review_band(certain, 0.5, 1.0)
    assert band is not None
    assert (band.low, band.high) == (0, 1)
