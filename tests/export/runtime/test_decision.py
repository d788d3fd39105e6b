import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.runtime.decision import Decision, decide, reject_scores, softmax, softmax_row
from export.runtime.errors import GateError, UsageError

LABELS = ("dent", "good", "scratch")


def test_softmax_is_right_in_double_precision_and_does_not_overflow() -> None:
    scores = softmax(np.array([[0, np.log(2), np.log(5)], [1000, 0, -1000]], np.float32))
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [[1 / 8, 2 / 8, 5 / 8], [1, 0, 0]], atol=1e-7)


def test_the_threshold_itself_rejects() -> None:
    scores = np.array([[0.25, 0.5, 0.25], [0.125, 0.5625, 0.3125]])
    assert decide(scores, LABELS, "good", 0.5) == [Decision("reject", "dent"), Decision("pass", "good")]


def test_a_reject_is_called_by_the_likeliest_defect_even_where_good_is_likelier() -> None:
    assert decide(np.array([[0.1, 0.6, 0.3]]), LABELS, "good", 0.2) == [Decision("reject", "scratch")]


def test_a_pass_is_called_good_even_where_a_defect_is_likelier() -> None:
    assert decide(np.array([[0.7, 0.2, 0.1]]), LABELS, "good", 0.9) == [Decision("pass", "good")]


def test_a_sorting_line_names_the_likeliest_class() -> None:
    scores = np.array([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])
    assert decide(scores, LABELS, None, None) == [Decision("class", "scratch"), Decision("class", "dent")]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.01, 0.99))
def test_a_higher_reject_score_never_turns_a_reject_into_a_pass(goods: list[float], threshold: float) -> None:
    p = np.array(sorted(goods, reverse=True))
    scores = np.stack([(1 - p) / 2, p, (1 - p) / 2], axis=1)
    verdicts = [decision.verdict for decision in decide(scores, LABELS, "good", threshold)]
    assert verdicts == sorted(verdicts)
    rejected = reject_scores(scores, LABELS, "good") >= threshold
    assert [verdict == "reject" for verdict in verdicts] == rejected.tolist()


@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_a_score_that_is_no_number_never_passes(hole: float) -> None:
    with pytest.raises(GateError, match="no finite score"):
        decide(np.array([[0.1, hole, 0.1]]), LABELS, "good", 0.5)


@pytest.mark.parametrize(
    ("shape", "good", "threshold"),
    [
        ((1, 2), "good", 0.5),
        ((3,), "good", 0.5),
        ((1, 3), "good", None),
        ((1, 3), None, 0.5),
        ((1, 3), "x", 0.5),
    ],
)
def test_scores_labels_and_threshold_must_belong_together(
    shape: tuple[int, ...], good: str | None, threshold: float | None
) -> None:
    with pytest.raises(UsageError, match="cannot be decided on"):
        decide(np.zeros(shape), LABELS, good, threshold)


@given(st.lists(st.floats(-80, 80), min_size=2, max_size=12))
def test_one_row_gets_the_probabilities_of_many(logits: list[float]) -> None:
    np.testing.assert_allclose(softmax_row(logits), softmax(np.array([logits]))[0], rtol=1e-13)
