import math

import numpy as np
import pytest

from factory.training.metrics import balanced_accuracy, proportion
from factory.training.versus import Decided, Versus, sentence


def inspected(*rows: tuple[int, bool, bool, int], good: int = 0) -> Versus:
    """Rows of truth, whether A rejects, whether B rejects, how many; the class called goes with the decision."""
    truth, a, b = (np.repeat([row[i] for row in rows], [row[3] for row in rows]) for i in range(3))
    other = np.where(truth == good, 1 - good, truth)
    sides = [Decided(np.where(r, other, good), r.astype(bool)) for r in (a, b)]
    return Versus(truth.astype(np.int64), good, *sides)


def sorting(*rows: tuple[int, int, int, int]) -> Versus:
    """Rows of truth, the class of A, the class of B, how many."""
    truth, a, b = (np.repeat([row[i] for row in rows], [row[3] for row in rows]).astype(np.int64) for i in range(3))
    return Versus(truth, None, Decided(a, None), Decided(b, None))


LINE = (
    (1, True, True, 290), (1, False, True, 7), (1, True, False, 4), (1, False, False, 9),
    (0, False, False, 190), (0, False, True, 12), (0, True, True, 12),
)  # fmt: skip


def test_the_sentence_counts_defects_and_good_parts_and_says_what_chance_could_do() -> None:
    said = sentence(inspected(*LINE))
    p = 2 * sum(math.comb(23, k) for k in range(8)) / 2**23
    assert said.startswith(
        "B lets 3 fewer of 310 defects pass (-1.0 points, 95 % -3.1 to +1.2) and rejects 12 more of "
    )
    assert "of 214 good parts (+5.6 points, 95 % +2." in said
    assert (
        f"they differ on 23 of 524 images, 7 of them right only with B and 16 only with A (McNemar p = {p:.2g})" in said
    )
    assert said.endswith(": beyond chance, A rejects fewer good parts (p < 0.001).")


def test_counts_and_figures_are_those_of_hand_made_tables() -> None:
    versus = inspected(*LINE)
    document = versus.as_json()
    assert [document[key] for key in ("images", "differ", "both_right", "only_a", "only_b", "both_wrong")] == [
        524, 23, 480, 16, 7, 21,
    ]  # fmt: skip
    assert document["p"] == pytest.approx(2 * sum(math.comb(23, k) for k in range(8)) / 2**23)
    figures = document["figures"]
    for side, escaped, rejected in (("a", 16, 12), ("b", 13, 24)):
        wilson = proportion(escaped, 310)
        assert figures["escape"][side] == {"value": wilson.value, "low": wilson.low, "high": wilson.high}
        assert figures["overkill"][side]["value"] == rejected / 214
    assert figures["escape"]["p"] == pytest.approx(2 * sum(math.comb(11, k) for k in range(5)) / 2**11)
    assert figures["overkill"]["p"] == pytest.approx(2 / 2**12)
    own = {side: balanced_accuracy(versus.truth, getattr(versus, side).called) for side in "ab"}
    assert figures["balanced_accuracy"]["b"]["value"] == pytest.approx(own["b"])
    assert figures["balanced_accuracy"]["difference"]["value"] == pytest.approx(own["b"] - own["a"])


def test_a_defect_rejected_as_another_is_a_right_decision_but_not_the_right_class() -> None:
    truth = np.array([0, 1, 2, 2])
    a = Decided(np.array([0, 1, 2, 2]), np.array([False, True, True, True]))
    b = Decided(np.array([0, 2, 2, 1]), np.array([False, True, True, True]))
    document = Versus(truth, 0, a, b).as_json()
    assert (document["differ"], document["both_right"]) == (0, 4)
    assert document["figures"]["balanced_accuracy"]["b"]["value"] == pytest.approx(0.5)
    assert document["sentence"].endswith("they decide alike on all 4 images: this test set cannot tell them apart.")


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([(1, False, True, 20), (1, True, True, 80), (0, False, False, 100)],
         "beyond chance, B lets fewer defects pass (p < 0.001)."),
        ([(1, True, False, 20), (1, True, True, 80), (0, False, True, 20), (0, False, False, 80)],
         "beyond chance, A lets fewer defects pass (p < 0.001) and rejects fewer good parts (p < 0.001)."),
        ([(1, False, True, 20), (1, True, True, 80), (0, False, True, 8), (0, False, False, 80)],
         "beyond chance, B lets fewer defects pass (p < 0.001) but A rejects fewer good parts (p = 0.0078)."),
        ([(1, False, True, 5), (1, True, True, 80), (0, True, False, 5), (0, False, False, 80)],
         "beyond chance, B is right more often."),
        ([(1, False, True, 4), (1, True, False, 4), (1, True, True, 80), (0, False, False, 80)],
         "this test set cannot tell them apart."),
    ],
)  # fmt: skip
def test_the_verdict_judges_defects_and_good_parts_each_for_itself(
    rows: list[tuple[int, bool, bool, int]], verdict: str
) -> None:
    assert sentence(inspected(*rows)).partition("): ")[2] == verdict


def test_ties_and_alike_networks_read_well() -> None:
    tied = sentence(inspected((1, False, True, 4), (1, True, False, 4), (1, True, True, 80), (0, False, False, 80)))
    assert tied.startswith("B lets as many of 88 defects pass (+0.0 points, 95 % -")
    assert "rejects as many of 80 good parts (+0.0 points, 95 % -2.4 to +2.4)" in tied
    assert "they differ on 8 of 168 images, 4 of them right only with B and 4 only with A (McNemar p = 1)" in tied
    alike = sentence(inspected((1, True, True, 30), (0, False, False, 30)))
    assert "; they decide alike on all 60 images: this test set cannot tell them apart." in alike
    assert "McNemar" not in alike
    assert "-0.0" not in tied + alike


def test_a_line_that_sorts_is_told_by_images_and_balanced_accuracy() -> None:
    said = sentence(sorting((0, 0, 0, 50), (1, 0, 1, 12), (1, 1, 0, 2), (2, 0, 1, 3), (2, 2, 2, 40), (1, 1, 1, 20)))
    assert said.startswith("B sorts 10 more of 127 images rightly (balanced accuracy +9.8 points, 95 % +")
    assert "they differ on 17 of 127 images, 12 of them right only with B and 2 only with A (McNemar p = 0.013)" in said
    assert said.endswith(": beyond chance, B is right more often.")
    assert set(sorting((0, 0, 0, 5), (1, 1, 0, 5)).figures()) == {"balanced_accuracy"}
    both_wrong = sentence(sorting((0, 1, 2, 3), (1, 1, 1, 9), (2, 2, 2, 9)))
    assert "B sorts as many of 21 images rightly (balanced accuracy +0.0 points" in both_wrong
    assert "they differ on 3 of 21 images, 0 of them right only with B and 0 only with A (McNemar p = 1)" in both_wrong
    assert both_wrong.endswith("this test set cannot tell them apart.")


def test_hardly_any_chance_is_not_printed_as_none() -> None:
    said = sentence(inspected((1, False, True, 60), (0, False, False, 60)))
    assert "(McNemar p < 0.001)" in said
    assert "B lets 60 fewer of 60 defects pass (-100.0 points, 95 % -100.0 to -9" in said
