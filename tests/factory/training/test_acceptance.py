from collections.abc import Callable

import numpy as np
import pytest

from factory.data.dataset import Part
from factory.profiles import AcceptanceLimits, LineProfile
from factory.training import metrics
from factory.training.acceptance import DEFAULT_ESCAPE, Check, checks, judge, threshold_for
from factory.training.metrics import operating_threshold, proportion

LineOf = Callable[..., LineProfile]
THREE = {"labels": ["good", "dent", "hole"], "merge": {"small": "dent", "big": "dent"}}

# class, raw label, probabilities; with threshold 0.4 a part is rejected from p(good) = 0.6 downwards
ROWS = [
    (0, "good", (0.9, 0.05, 0.05)),
    (0, "good", (0.7, 0.2, 0.1)),
    (0, "good", (0.55, 0.4, 0.05)),  # called good, rejected all the same
    (0, "good", (0.3, 0.5, 0.2)),
    (1, "small", (0.8, 0.15, 0.05)),  # escapes
    (1, "small", (0.5, 0.3, 0.2)),  # called good, rejected all the same
    (1, "big", (0.1, 0.7, 0.2)),
    (1, "big", (0.1, 0.2, 0.7)),  # rejected as the wrong defect
    (2, "hole", (0.2, 0.1, 0.7)),
    (2, "hole", (0.65, 0.05, 0.3)),  # escapes
]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BOOTSTRAP", 60)


def part(rows: list[tuple[int, str, tuple[float, float, float]]]) -> tuple[Part, np.ndarray]:
    labels = np.array([label for label, _, _ in rows], np.int64)
    raw = tuple(name for _, name, _ in rows)
    logits = np.log(np.array([p for _, _, p in rows])).astype(np.float32)
    images = np.zeros((len(rows), 2, 2, 1), np.uint8)
    return Part(images, labels, tuple(map(str, range(len(rows)))), raw), logits


def test_a_small_test_set_is_judged_as_by_hand(line_of: LineOf) -> None:
    test, logits = part(ROWS)
    judged = judge("net", line_of(classes=THREE), test, logits, 0.4)
    assert (judged.name, judged.threshold) == ("net", 0.4)
    assert judged.recalls == {"good": proportion(3, 4), "dent": proportion(1, 4), "hole": proportion(1, 2)}
    assert judged.balanced_accuracy.value == pytest.approx((3 / 4 + 1 / 4 + 1 / 2) / 3)
    assert judged.escape == proportion(2, 6)
    assert judged.overkill == proportion(2, 4)
    assert judged.raw_labels == {
        "good": proportion(2, 4),
        "small": proportion(1, 2),
        "big": proportion(2, 2),
        "hole": proportion(1, 2),
    }
    good, bad = ([1 - p[0] for label, _, p in ROWS if (label == 0) == own] for own in (True, False))
    assert judged.auroc.value == pytest.approx(np.mean([[(b > g) + 0.5 * (b == g) for g in good] for b in bad]))
    for estimate in (judged.balanced_accuracy, judged.auroc):
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert judged.as_json()["escape"] == {"value": 2 / 6, "low": judged.escape.low, "high": judged.escape.high}


def test_a_line_that_sorts_has_neither_escape_nor_overkill(line_of: LineOf) -> None:
    test, logits = part(ROWS)
    judged = judge("net", line_of(classes=THREE | {"good": None}), test, logits, None)
    assert (judged.escape, judged.overkill, judged.threshold) == (None, None, None)
    assert judged.raw_labels == {
        "good": proportion(3, 4),
        "small": proportion(0, 2),
        "big": proportion(1, 2),
        "hole": proportion(1, 2),
    }
    assert judged.recalls["dent"] == proportion(1, 4)


def test_the_threshold_is_chosen_for_the_lines_own_limit(line_of: LineOf) -> None:
    val, logits = part(ROWS)
    scores = np.array([1 - p[0] for _, _, p in ROWS])
    for limit in (0.1, 0.2, 0.5):
        line = line_of(classes=THREE, acceptance={"escape_max": limit})
        assert threshold_for(line, val, logits) == pytest.approx(operating_threshold(val.labels, scores, 0, limit))
    unlimited = threshold_for(line_of(classes=THREE), val, logits)
    assert unlimited == pytest.approx(operating_threshold(val.labels, scores, 0, DEFAULT_ESCAPE))
    assert threshold_for(line_of(classes=THREE | {"good": None}), val, logits) is None


def test_limits_are_held_against_what_was_found_and_a_value_at_the_limit_passes() -> None:
    limits = AcceptanceLimits(escape_max=0.1, overkill_max=0.2, balanced_accuracy_min=0.9)
    assert checks(limits, {"escape": 0.1, "overkill": 0.21, "balanced_accuracy": 0.9}) == [
        Check("escape_max", 0.1, 0.1, True),
        Check("overkill_max", 0.2, 0.21, False),
        Check("balanced_accuracy_min", 0.9, 0.9, True),
    ]
    found = {"escape": 0.11, "overkill": 0.0, "balanced_accuracy": 0.89}
    assert [check.passed for check in checks(limits, found)] == [False, True, False]


def test_what_is_not_limited_or_not_found_is_not_checked() -> None:
    assert checks(AcceptanceLimits(), {"escape": 1.0, "overkill": 1.0, "balanced_accuracy": 0.0}) == []
    limits = AcceptanceLimits(balanced_accuracy_min=0.5)
    found = {"escape": None, "overkill": None, "balanced_accuracy": 0.4}
    assert checks(limits, found) == [Check("balanced_accuracy_min", 0.5, 0.4, False)]
