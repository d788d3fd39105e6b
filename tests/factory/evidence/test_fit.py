import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import RidgeCV

from factory.evidence.fit import PENALTIES, Trained, fit, left_out, logs, normal_scores, scores
from tests.factory.evidence.test_audit import made

NAMES = ("params", "macs", "positions", "width")


def line(number: int, seed: int, noise: float = 0.0) -> Trained:
    """Networks whose order is that of params * macs ** 0.5, up to noise."""
    features = made(number, seed)
    rng = np.random.default_rng(seed)
    truth = [math.log(f.params) + 0.5 * math.log(f.macs) + noise * rng.normal() for f in features]
    return Trained(tuple(features), np.array(truth))


def exponents(lines: list[Trained]) -> dict[str, float]:
    ranking = fit(lines, NAMES, "fitted")
    assert ranking.name == "fitted"
    assert tuple(name for name, _ in ranking.exponents) == NAMES
    return dict(ranking.exponents)


def test_the_exponents_of_a_power_law_are_found_up_to_a_common_factor() -> None:
    found = exponents([line(400, 0)])
    assert found["macs"] / found["params"] == pytest.approx(0.5, abs=0.05)
    assert abs(found["positions"] / found["params"]) < 0.05
    spread = np.std(logs(line(400, 0).features, ("width",)))
    assert abs(found["width"]) * spread < 0.05 * found["params"]
    ranking, unseen = fit([line(400, 0)], NAMES, "fitted"), line(300, 1)
    assert scipy.stats.spearmanr(scores(ranking, unseen.features), unseen.truth).statistic > 0.99


def test_only_the_order_within_each_line_counts() -> None:
    one, two = line(30, 0, noise=0.5), line(20, 1, noise=0.5)
    expected = exponents([one, two])
    better = Trained(two.features, np.exp(two.truth) + 1e6)  # every network of a line better than all of the other
    assert exponents([one, better]) == pytest.approx(expected)
    larger = tuple(replace(f, params=50 * f.params) for f in two.features)
    assert exponents([one, Trained(larger, two.truth)]) == pytest.approx(expected)


def test_a_feature_that_never_changes_says_nothing() -> None:
    same = tuple(replace(f, width=16.0) for f in line(20, 0).features)
    assert exponents([Trained(same, line(20, 0).truth)])["width"] == 0


def test_ranks_become_normal_quantiles_whatever_the_scale() -> None:
    found = normal_scores(np.array([3.0, -1e9, 7.0, 5.0]))
    assert found == pytest.approx(scipy.stats.norm.ppf([0.375, 0.125, 0.875, 0.625]))


def test_leaving_one_out_is_an_explicit_loop() -> None:
    own = line(12, 3, noise=0.7)
    x = np.log([[f.params, f.macs, f.positions, f.width] for f in own.features])
    for index, score in enumerate(left_out(own, NAMES)):
        rest = [i for i in range(12) if i != index]
        centre, spread = x[rest].mean(0), x[rest].std(0)
        places = scipy.stats.rankdata(own.truth[rest])
        target = scipy.stats.norm.ppf((places - 0.5) / 11)
        model = RidgeCV(PENALTIES, fit_intercept=False).fit((x[rest] - centre) / spread, target)
        assert score == pytest.approx(float(model.predict(((x[index] - centre) / spread)[None])[0]))
    blind = own.truth.copy()
    blind[5] = 1e9
    assert left_out(Trained(own.features, blind), NAMES)[5] == left_out(own, NAMES)[5]
