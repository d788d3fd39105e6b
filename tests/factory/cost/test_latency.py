import json
from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray

from factory.cost.features import NAMES, features
from factory.cost.latency import LEVEL, LatencyModel, Law, fit_law, terms_of
from factory.cost.transfer import fit_latency
from factory.spaces.plan import Plan
from factory.spaces.residual import parse, plan
from tests.factory.cost.conftest import PICTURE, drawn

# ms a unit of each feature
LAW = np.array([0.015, 0.004, 0.03, 0.05, 0.2, 0.1, 0.05, 0.01, 0.02, 0.1, 0.07, 0.1, 0.1])


def timed(plans: list[Plan], spread: float = 0.0, seed: int = 0) -> NDArray[np.float64]:
    """Latencies by the law, times noise."""
    return terms_of(plans) @ LAW * np.random.default_rng(seed).lognormal(0, spread, len(plans))


def test_the_fit_recovers_a_law_and_is_then_sure_of_it() -> None:
    plans = drawn(60)
    model = fit_latency(plans, list(timed(plans)))
    for unseen in drawn(30, seed=1):
        estimate = model.estimate(unseen)
        assert estimate.ms == pytest.approx(features(unseen) @ LAW, rel=1e-3)
        assert estimate.low <= estimate.ms <= estimate.high <= 1.05 * estimate.ms
    assert model.law.median_error < 0.01


@pytest.mark.parametrize("number", [30, 40, 80])
def test_the_bounds_cover_what_they_say_of_networks_never_seen(number: int) -> None:
    """A mean over many fits, since the coverage of one fit is itself a matter of chance."""
    above, below = [], []
    for seed in range(8):
        plans, unseen = drawn(number, seed), drawn(100, seed + 100)
        law = fit_law(terms_of(plans), timed(plans, 0.15, seed))
        _, low, high = law.bounds(terms_of(unseen))
        truth = timed(unseen, 0.15, seed + 100)
        above.append(np.mean(truth <= high))
        below.append(np.mean(truth >= low))
    assert LEVEL - 0.03 <= np.mean(above) <= 0.995
    assert LEVEL - 0.03 <= np.mean(below) <= 0.995


def test_a_network_unlike_the_measured_ones_has_a_wider_interval() -> None:
    plans = [p for p in drawn(120) if features(p)[NAMES.index("depthwise")] == 0][:30]
    assert len(plans) == 30
    model = fit_latency(plans, list(timed(plans, 0.1)))

    def width(network: Plan) -> float:
        estimate = model.estimate(network)
        return estimate.high / estimate.ms

    mobile = plan(parse("stem_w8_s2-mb_w128_d4_k5_e6_s1-mb_w192_d4_k5_e6_s2"), PICTURE, 3)
    assert width(mobile) > 1.2 * max(width(p) for p in plans)


def test_a_larger_network_is_never_predicted_faster() -> None:
    plans = drawn(30)
    model = fit_latency(plans, list(timed(plans, 0.3)))
    assert all(weight >= 0 for weight in model.law.weights)
    assert all(model.predict(p) > 0 for p in drawn(200, seed=2))
    small, *larger = (
        plan(parse(f"stem_w8_s1-basic_w{w}_d{d}_k{k}_e{e}_s1-basic_w32_d1_k3_e1_s2"), PICTURE, 3)
        for w, d, k, e in ((16, 1, 3, 1), (32, 1, 3, 1), (16, 2, 3, 1), (16, 1, 5, 1), (16, 1, 3, 2))
    )
    assert all((features(other) >= features(small)).all() for other in larger)
    assert all(model.predict(other) >= model.predict(small) for other in larger)


def test_the_same_measurements_give_the_same_law_and_json_keeps_every_bit() -> None:
    terms, ms = terms_of(drawn(25)), timed(drawn(25), 0.1)
    law = fit_law(terms, ms)
    assert fit_law(terms, ms) == law
    assert Law.from_json(json.loads(json.dumps(asdict(law)))) == law


def test_a_slower_device_is_slower_by_its_factor_and_as_sure() -> None:
    plans, unseen = drawn(30), drawn(20, seed=3)
    ms = timed(plans, 0.1)
    here, there = fit_law(terms_of(plans), ms), fit_law(terms_of(plans), 7 * ms)
    np.testing.assert_allclose(there.bounds(terms_of(unseen)), 7 * np.array(here.bounds(terms_of(unseen))), rtol=1e-6)


def test_no_law_is_fitted_to_next_to_nothing() -> None:
    with pytest.raises(ValueError, match="needs 2 or more measured networks, found 1"):
        fit_law(terms_of(drawn(1)), np.ones(1))


def test_a_model_says_what_its_law_says() -> None:
    plans = drawn(25)
    law = fit_law(terms_of(plans), timed(plans, 0.1))
    model = LatencyModel(law)
    ms, low, high = law.bounds(terms_of(plans))
    for index, network in enumerate(plans):
        estimate = model.estimate(network)
        assert (estimate.ms, estimate.low, estimate.high) == pytest.approx((ms[index], low[index], high[index]))
        assert (model.predict(network), model.upper(network)) == (estimate.ms, estimate.high)
