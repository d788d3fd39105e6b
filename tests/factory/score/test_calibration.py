"""The exponents that are shipped are those that the trained networks give, and they earn their place."""

import numpy as np
import pytest

from factory.evidence.fit import fit, scores
from factory.evidence.statistics import spearman
from factory.score.calibration import CALIBRATED, FEATURES
from tests.benchmarks.calibration import trained


def test_the_shipped_exponents_are_those_fitted_to_the_trained_networks_of_all_lines() -> None:
    fitted = fit([line for line, _ in trained().values()], FEATURES, CALIBRATED.name)
    assert [name for name, _ in CALIBRATED.exponents] == list(FEATURES)
    assert dict(CALIBRATED.exponents) == pytest.approx(dict(fitted.exponents), abs=2e-3)


@pytest.mark.parametrize("left_out", sorted(trained()))
def test_fitted_to_other_lines_it_ranks_better_than_parameters_and_macs(left_out: str) -> None:
    lines = trained()
    line, _ = lines.pop(left_out)
    ranking = scores(fit([other for other, _ in lines.values()], FEATURES, "others"), line.features)
    for count in ("params", "macs"):
        plain = np.array([getattr(one, count) for one in line.features])
        assert spearman(ranking, line.truth) > spearman(plain, line.truth)
