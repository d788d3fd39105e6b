import numpy as np
import pytest

from export.build import gate
from export.build.gate import SCORE_TOLERANCE, Parity, Scored, refuse_unless_equal
from export.runtime.decision import softmax
from export.runtime.errors import GateError

LABELS = ("good", "dent", "hole")


def logits(*rows: tuple[float, ...]) -> np.ndarray:
    """Logits whose softmax is the rows."""
    return np.log(np.array(rows)).astype(np.float32)


def compare(
    reference: np.ndarray, exported: np.ndarray, labels: tuple[str, ...], good: str | None, threshold: float | None
) -> Parity:
    """Both at one threshold."""
    return gate.compare(Scored(reference, threshold), Scored(exported, threshold), labels, good)


SURE = logits((0.9, 0.05, 0.05), (0.1, 0.8, 0.1), (0.2, 0.1, 0.7))


def test_an_equal_model_passes() -> None:
    parity = compare(SURE, SURE.copy(), LABELS, "good", 0.5)
    assert parity == Parity(3, 0.0, 0)
    refuse_unless_equal(parity)


def test_logits_are_compared_by_the_scores_they_mean() -> None:
    refuse_unless_equal(compare(SURE, SURE + 5, LABELS, "good", 0.5))


def test_one_decision_that_flips_is_refused_however_near_the_scores() -> None:
    near = logits((0.6 + 2e-5, 0.3, 0.1 - 2e-5), (0.9, 0.05, 0.05))
    over = logits((0.6 - 2e-5, 0.3, 0.1 + 2e-5), (0.9, 0.05, 0.05))
    parity = compare(near, over, LABELS, "good", 0.4)
    assert parity.decisions_changed == 1
    assert parity.score_difference == pytest.approx(4e-5, rel=0.02) and parity.score_difference < SCORE_TOLERANCE
    with pytest.raises(GateError, match=r"1 of 2 decisions changed, scores differ by up to 4e-05") as caught:
        refuse_unless_equal(parity)
    assert caught.value.exit_code == 1
    refuse_unless_equal(compare(near, over, LABELS, "good", 0.5))


def test_the_label_of_a_rejected_part_is_a_decision_too() -> None:
    one, two = logits((0.2, 0.40001, 0.39999)), logits((0.2, 0.39999, 0.40001))
    assert compare(one, two, LABELS, "good", 0.5).decisions_changed == 1


def test_a_sorting_line_is_compared_by_its_labels() -> None:
    one, two = logits((0.50001, 0.49999), (0.9, 0.1)), logits((0.49999, 0.50001), (0.9, 0.1))
    assert compare(one, two, LABELS[:2], None, None) == Parity(2, pytest.approx(2e-5, rel=0.02), 1)


def test_scores_that_differ_too_much_are_refused_though_nothing_flips() -> None:
    other = logits((0.899, 0.051, 0.05), (0.1, 0.8, 0.1), (0.2, 0.1, 0.7))
    parity = compare(SURE, other, LABELS, "good", 0.5)
    assert parity.decisions_changed == 0
    assert (
        parity.score_difference
        == pytest.approx(np.abs(softmax(SURE) - softmax(other)).max())
        == pytest.approx(1e-3, rel=0.01)
    )
    with pytest.raises(GateError, match=r"expected 0 decisions changed, scores within 0\.0001"):
        refuse_unless_equal(parity)
    refuse_unless_equal(parity, tolerance=2e-3)


def test_a_model_that_gives_no_numbers_is_refused() -> None:
    broken = SURE.copy()
    broken[1, 1] = np.nan
    with pytest.raises(GateError, match="no finite score"):
        compare(SURE, broken, LABELS, "good", 0.5)
    with pytest.raises(GateError, match="does not decide as the trained network"):
        refuse_unless_equal(Parity(3, float("nan"), 0))
