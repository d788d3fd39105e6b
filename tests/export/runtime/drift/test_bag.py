"""The histogram of half-precision numbers ranks values as sorting them does."""

import numpy as np
import pytest

from export.runtime.drift.bag import LARGEST, Bag


def rounded(values: np.ndarray) -> np.ndarray:
    """The half-precision number at or below each value, found among all of them."""
    numbers = np.arange(31_744, dtype=np.uint16).view(np.float16).astype(np.float64)
    return numbers[np.searchsorted(numbers, np.minimum(values, LARGEST), side="right") - 1]


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 100.0, 1e5])
def test_ranks_are_those_of_sorting(scale: float) -> None:
    rng = np.random.default_rng(3)
    first, later = scale * rng.random((2, 50)), scale * rng.random((200, 2))
    bag = Bag(2)
    for row in range(2):
        bag.fill(row, first[row])
    for count, values in enumerate(later):
        larger, equal, size = bag.add(values)
        for row in range(2):
            seen = rounded(np.concatenate([first[row], later[: count + 1, row]]))
            assert larger[row] == (seen > seen[-1]).sum()
            assert equal[row] == (seen == seen[-1]).sum()
            assert size[row] == len(seen)


def test_values_are_kept_within_a_thousandth() -> None:
    for value in np.geomspace(1e-4, 6e4, 300):
        bag = Bag(1)
        bag.fill(0, [value])
        assert bag.median(0) == pytest.approx(value, rel=1e-3)


def test_median_leaves_values_out_and_a_row_is_emptied_alone() -> None:
    bag = Bag(2)
    bag.fill(0, [1.0, 2.0, 3.0, 50.0, 60.0])
    bag.fill(1, [7.0])
    assert bag.median(0) == 3.0
    assert bag.median(0, without=[50.0, 60.0]) == 2.0
    bag.empty(0)
    assert bag.median(0) is None
    assert bag.median(1) == 7.0
