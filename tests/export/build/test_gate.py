from dataclasses import replace

import numpy as np
import pytest

from export.build import gate
from export.build.gate import (
    SCORE_TOLERANCE,
    Flow,
    Limits,
    Parity,
    Scored,
    exchange,
    reasons,
    refuse_unless_equal,
)
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


TRUTH = np.array([0] * 50 + [1] * 50)
TWO = ("good", "dent")
ROOM = Limits(escapes=5, overkill_more=1, balanced_accuracy_less=0.01, changed=6, loss_more=0.5)


def scored(rejects: np.ndarray, threshold: float | None = 0.5) -> Scored:
    """A model with these reject scores (N,)."""
    return Scored(np.log(np.stack([1 - rejects, rejects], axis=1)).astype(np.float32), threshold)


def rejects(passed: int, overkill: int) -> np.ndarray:
    """Scores of 50 good parts, of which the last are rejected, and of 50 defects, of which the first pass."""
    own = np.concatenate([np.full(50, 0.1), np.full(50, 0.9)])
    own[50 - overkill : 50] = 0.8
    own[50 : 50 + passed] = 0.2
    return own


def reasons_of(after: np.ndarray, threshold: float | None = 0.5, limits: Limits = ROOM) -> list[str]:
    return reasons(exchange(scored(rejects(5, 10)), scored(after, threshold), TRUTH, TWO, "good"), limits)


def test_what_is_gained_and_lost_is_counted_part_by_part() -> None:
    after = rejects(5, 10)
    after[50] = 0.9  # one defect more is caught
    after[[70, 71]] = 0.3  # two others now pass
    after[0] = 0.7  # one good part more is rejected
    found = exchange(scored(rejects(5, 10)), scored(after), TRUTH, TWO, "good")
    assert found.escapes == Flow(total=50, before=5, after=6, new=2, gone=1)
    assert found.overkill == Flow(total=50, before=10, after=11, new=1, gone=0)
    assert found.parity == Parity(100, pytest.approx(0.7, abs=1e-6), 4)
    assert found.balanced_accuracy_before == pytest.approx((40 / 50 + 45 / 50) / 2)
    assert found.balanced_accuracy == pytest.approx((39 / 50 + 44 / 50) / 2)


def test_an_equal_variant_passes_and_one_more_escape_than_the_limit_allows_does_not() -> None:
    assert reasons_of(rejects(5, 10)) == []
    assert reasons_of(rejects(6, 10), limits=replace(ROOM, escapes=6, balanced_accuracy_less=0.02)) == []
    (reason,) = reasons_of(rejects(6, 10), limits=replace(ROOM, balanced_accuracy_less=0.02))
    assert reason == "6 of 50 defects pass (5 in float32: 1 new, 0 gone), at most 5 may"


def test_where_float32_passes_more_than_the_limit_a_variant_may_pass_as_many_and_no_more() -> None:
    strict = replace(ROOM, escapes=0, balanced_accuracy_less=0.02)
    assert reasons_of(rejects(5, 10), limits=strict) == []
    assert "at most 5 may" in reasons_of(rejects(6, 10), limits=strict)[0]


def test_overkill_has_room_of_its_own_and_that_of_the_line() -> None:
    wide = replace(ROOM, balanced_accuracy_less=0.1)
    assert reasons_of(rejects(5, 11), limits=wide) == []
    (reason,) = reasons_of(rejects(5, 12), limits=wide)
    assert reason == "12 of 50 good parts are rejected (10 in float32: 2 new, 0 gone), at most 11 may"
    assert "at most 10 may" in reasons_of(rejects(5, 11), limits=replace(wide, overkill_max=0.21))[0]
    assert reasons_of(rejects(5, 11), limits=replace(wide, overkill_max=0.1)) == []  # float32 misses it, too


def test_balanced_accuracy_may_fall_by_its_room_and_not_below_the_limit_of_the_line() -> None:
    assert reasons_of(rejects(5, 11)) == []  # 85 % to 84 %
    (reason,) = reasons_of(rejects(5, 11), limits=replace(ROOM, balanced_accuracy_less=0.009))
    assert reason == "balanced accuracy 84.00%, at least 84.10% of the float32 network's 85.00%"
    assert "at least 84.50%" in reasons_of(rejects(5, 11), limits=replace(ROOM, balanced_accuracy_min=0.845))[0]
    assert reasons_of(rejects(5, 11), limits=replace(ROOM, balanced_accuracy_min=0.9)) == []


def test_scores_far_off_are_refused_though_they_decide_alike() -> None:
    timid = np.where(rejects(5, 10) > 0.5, 0.55, 0.45)
    found = exchange(scored(rejects(5, 10)), scored(timid), TRUTH, TWO, "good")
    good = np.array([-(40 * np.log(1 - r) + 10 * np.log(1 - s)) / 50 for r, s in ((0.1, 0.8), (0.45, 0.55))])
    defects = np.array([-(5 * np.log(q) + 45 * np.log(p)) / 50 for q, p in ((0.2, 0.9), (0.45, 0.55))])
    assert [found.loss_before, found.loss] == pytest.approx((good + defects) / 2, abs=1e-6)
    assert reasons(found, ROOM) == []
    (reason,) = reasons(found, replace(ROOM, loss_more=0.02))
    assert reason == f"loss {found.loss:.3f}, at most {found.loss_before + 0.02:.3f} by the float32 network's " + (
        f"{found.loss_before:.3f}"
    )


def test_decisions_that_change_both_ways_are_counted_though_no_rate_moves() -> None:
    after = rejects(5, 10)
    after[[0, 1, 2, 3]], after[[40, 41, 42, 43]] = 0.8, 0.1
    assert reasons_of(after, limits=replace(ROOM, changed=8)) == []
    assert reasons_of(after) == ["8 of 100 decisions changed, at most 6 may"]


def test_a_variant_is_held_to_its_own_threshold() -> None:
    raised = np.where(rejects(5, 10) < 0.5, rejects(5, 10) + 0.25, 0.9)
    before = scored(rejects(5, 10), 0.3)
    assert reasons(exchange(before, scored(raised, 0.5), TRUTH, TWO, "good"), ROOM) == []
    at_the_old_one = reasons(exchange(before, scored(raised, 0.3), TRUTH, TWO, "good"), ROOM)
    assert at_the_old_one[0].startswith("50 of 50 good parts are rejected (10 in float32: 40 new")


def test_a_line_that_sorts_is_held_to_labels_and_balanced_accuracy() -> None:
    sorts = replace(ROOM, escapes=None)
    before, after = rejects(5, 10), rejects(7, 10)
    found = exchange(scored(before, None), scored(after, None), TRUTH, TWO, None)
    assert (found.escapes, found.overkill) == (None, None)
    assert found.parity.decisions_changed == 2
    assert reasons(found, sorts) == ["balanced accuracy 83.00%, at least 84.00% of the float32 network's 85.00%"]
    assert reasons(found, replace(sorts, balanced_accuracy_less=0.02)) == []
