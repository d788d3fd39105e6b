import math

import pytest

from factory.score.regulariser import SizeRegulariser, derived


def test_the_regulariser_is_a_bell_around_mu_in_thousands_of_parameters() -> None:
    bell = SizeRegulariser(mu=40.0, sigma=400.0)
    assert bell.factor(40_000) == 1.0
    assert bell.factor(60_000) == bell.factor(20_000) == pytest.approx(math.exp(-1))
    assert bell.factor(45_000) == pytest.approx(math.exp(-((45 - 40) ** 2) / 400))
    assert bell.factor(10**9) == 0.0


def test_mu_and_sigma_follow_from_the_sizes_that_the_budgets_leave() -> None:
    size = derived([12_000, 80_000, 40_000])
    assert (size.mu, size.sigma) == (80.0, 6400.0)
    assert size.factor(40_000) == pytest.approx(math.exp(-1 / 4))
