import math

import pytest

from factory.score.regulariser import SizeRegulariser


def test_the_regulariser_is_a_bell_around_mu_in_thousands_of_parameters() -> None:
    bell = SizeRegulariser(mu=40.0, sigma=400.0)
    assert bell.factor(40_000) == 1.0
    assert bell.factor(60_000) == bell.factor(20_000) == pytest.approx(math.exp(-1))
    assert bell.factor(45_000) == pytest.approx(math.exp(-((45 - 40) ** 2) / 400))
    assert bell.factor(10**9) == 0.0
