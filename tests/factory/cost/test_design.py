import numpy as np
import pytest

from factory.cost.count import count
from factory.cost.design import STRATA, affordable, chosen, design
from factory.cost.latency import fit_law, terms_of
from factory.profiles import BudgetLimits
from factory.spaces.plan import Plan
from factory.spaces.residual import plan
from factory.spaces.restriction import EVERYTHING, allows, parse_restriction
from tests.factory.cost.conftest import DEVICE, PICTURE, drawn
from tests.factory.cost.test_latency import timed


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.cost.design.DRAWS", 500)


LIMITS = BudgetLimits(device="bench", latency_ms=0.5, size_mb=1.0)


def designed(number: int, space: str = "all") -> list[Plan]:
    return [plan(g, PICTURE, 3) for g in design(PICTURE, 3, LIMITS, DEVICE, parse_restriction(space), number)]


def test_a_design_is_of_different_networks_around_every_budget_and_always_the_same() -> None:
    genomes = design(PICTURE, 3, LIMITS, DEVICE, EVERYTHING, 40)
    assert len(set(genomes)) == 40
    assert design(PICTURE, 3, LIMITS, DEVICE, EVERYTHING, 40) == genomes
    macs = np.array([count(plan(g, PICTURE, 3)).macs for g in genomes])
    least, most = affordable(DEVICE, 0.5)
    assert ((least <= macs) & (macs <= most)).all()
    edges = np.geomspace(macs.min(), macs.max(), STRATA + 1)
    assert np.histogram(macs, edges)[0].min() >= 5


def test_a_shorter_design_is_the_beginning_of_a_longer_one() -> None:
    assert design(PICTURE, 3, LIMITS, DEVICE, EVERYTHING, 40)[:20] == design(PICTURE, 3, LIMITS, DEVICE, EVERYTHING, 20)


@pytest.mark.parametrize("restriction", ["kinds=mb+depths=1,2", "widths=8+depths=1+kernels=3+kinds=basic"])
def test_a_design_keeps_to_the_space_of_the_line(restriction: str) -> None:
    limits = parse_restriction(restriction)
    genomes = design(PICTURE, 3, LIMITS, DEVICE, limits, 30)
    assert len(set(genomes)) == len(genomes) == 30
    assert all(allows(limits, genome) for genome in genomes)


def test_a_budget_out_of_the_reach_of_the_space_still_has_a_design() -> None:
    tiny = LIMITS.model_copy(update={"latency_ms": 1e-6})
    assert len(set(design(PICTURE, 3, tiny, DEVICE, EVERYTHING, 30))) == 30


def test_each_is_the_one_known_least_after_those_before() -> None:
    """The determinant of the information, computed anew for every alternative."""
    rng = np.random.default_rng(0)
    shares, strata = rng.random((40, 4)), rng.integers(0, STRATA, 40)
    scaled = shares / np.sqrt((shares**2).mean(0))
    picked = chosen(shares, strata, 12)
    for turn, best in enumerate(picked):
        before = picked[:turn]
        free = [i for i in range(40) if strata[i] == turn % STRATA and i not in before]

        def information(row: int, before: list[int] = before) -> float:
            rows = scaled[[*before, row]]
            return float(np.linalg.det(np.eye(4) + rows.T @ rows))

        assert information(best) == pytest.approx(max(map(information, free)))


def test_a_design_teaches_more_than_as_many_random_networks() -> None:
    """Mean error of a noisy law on networks never seen, over several draws."""
    unseen = drawn(300, seed=50)
    exact = timed(unseen)

    def error(plans: list[Plan], seed: int) -> float:
        law = fit_law(terms_of(plans), timed(plans, 0.1, seed))
        return float(np.mean(np.abs(law.predict(terms_of(unseen)) / exact - 1)))

    plans = designed(24)
    by_design = [error(plans, seed) for seed in range(8)]
    at_random = [error(drawn(24, seed), seed) for seed in range(8)]
    assert np.mean(by_design) < np.mean(at_random)


def test_a_millisecond_buys_more_on_more_threads_and_on_a_card() -> None:
    threaded = DEVICE.model_copy(update={"threads": 4})
    card = DEVICE.model_copy(update={"runtime": "tensorrt"})
    one, four, more = (affordable(device, 2.0) for device in (DEVICE, threaded, card))
    assert (one[0], 4 * one[1]) == four
    assert more[0] > one[0] and more[1] > four[1]
    assert affordable(DEVICE, 4.0) == (2 * one[0], 2 * one[1])
