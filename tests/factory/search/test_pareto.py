import warnings

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from factory.search.candidate import Candidate, pareto, ranked
from factory.search.pareto import front

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

COARSE = st.integers(0, 4).map(float)  # few values, so that ties are common


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 4)).flatmap(
        lambda shape: arrays(np.float64, shape, elements=st.one_of(COARSE, st.floats(-5, 5)))
    )
)
def test_the_front_is_that_of_pymoo(costs: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = NonDominatedSorting().do(costs, only_non_dominated_front=True)
    assert front(costs).tolist() == sorted(np.asarray(wanted).tolist())


def test_equal_rows_stay_together_and_a_tie_in_all_but_one_dominates() -> None:
    costs = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0], [0.0, 3.0]])
    assert front(costs).tolist() == [0, 1, 3]


def made(genome: str, score: float, latency_ms: float, size_mb: float, swap: float = 1.0) -> Candidate:
    return Candidate(genome, 10, size_mb, 10, latency_ms, swap, 0.5, score)


def test_the_front_of_candidates_trades_score_latency_and_size_and_leaves_out_the_degenerate() -> None:
    candidates = [
        made("best", 9, 3, 3),
        made("fast", 5, 1, 3),
        made("small", 5, 3, 1),
        made("beaten", 5, 3, 3),
        made("dead", 0, 0.5, 0.5, swap=0),
    ]
    assert [c.genome for c in pareto(candidates)] == ["fast", "best", "small"]
    assert pareto(candidates[4:]) == []
    assert [c.genome for c in ranked(candidates)] == ["best", "beaten", "fast", "small", "dead"]
