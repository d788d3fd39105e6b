import math

import numpy as np
import pytest

from factory.training.recipe import learning_rate


def test_the_rate_warms_up_and_falls_by_half_a_cosine() -> None:
    assert learning_rate(0) == 0
    assert learning_rate(0.05) == pytest.approx(0.5)
    assert learning_rate(0.1) == 1
    assert learning_rate(0.55) == pytest.approx(0.5)
    assert learning_rate(0.1 + 0.9 / 3) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)
    assert 0 < learning_rate(0.999) < 1e-5
    falling = [learning_rate(p) for p in np.linspace(0.1, 0.999, 50)]
    assert falling == sorted(falling, reverse=True)
