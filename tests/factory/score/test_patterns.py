import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.score.patterns import distinct, distinct_on_device, pack, pack_on_device

SAMPLES = st.one_of(st.integers(1, 70), st.sampled_from([8, 16, 32, 63, 64, 65, 128, 129]))


def patterns_of(layers: list[np.ndarray]) -> set[tuple[bool, ...]]:
    """The definition: the set of all positions' tuples over the samples."""
    return {tuple(column) for layer in layers for column in (layer > 0).T.tolist()}


def activations(samples: int, sizes: list[int], seed: int, share: float) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    layers = []
    for size in sizes:
        values = rng.standard_normal((samples, size)).astype(np.float32)
        layers.append(np.where(rng.random((samples, size)) < share, np.abs(values), -np.abs(values)))
        layers[-1][rng.random((samples, size)) < 0.1] = 0.0  # a ReLU's zero is not positive
    layers[-1][:, : sizes[0]] = layers[0][:, : sizes[-1]]  # the same patterns in two layers count once
    return layers


@settings(deadline=None, max_examples=150)
@given(SAMPLES, st.lists(st.integers(1, 120), min_size=1, max_size=4), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_the_packed_count_is_that_of_the_set_of_patterns(
    samples: int, sizes: list[int], seed: int, share: float
) -> None:
    layers = activations(samples, sizes, seed, share)
    wanted = len(patterns_of(layers))
    assert distinct([pack(layer) for layer in layers]) == wanted
    on_device = [pack_on_device(torch.from_numpy(layer)) for layer in layers]
    assert int(distinct_on_device(on_device)) == wanted


@pytest.mark.parametrize(
    ("samples", "dtype", "columns"),
    [(1, np.uint8, 0), (8, np.uint8, 0), (9, np.uint16, 0), (16, np.uint16, 0), (17, np.uint32, 0), (32, np.uint32, 0),
     (33, np.uint64, 0), (64, np.uint64, 0), (65, np.uint64, 2), (129, np.uint64, 3)],
)  # fmt: skip
def test_a_pattern_takes_the_shortest_word(samples: int, dtype: type, columns: int) -> None:
    words = pack(np.ones((samples, 5), np.float32))
    assert words.dtype == dtype
    assert words.shape == ((5, columns) if columns else (5,))


def test_values_that_are_no_numbers_are_not_positive() -> None:
    values = np.array([[np.nan, -1, np.inf, -np.inf, -0.0], [np.nan, -1, np.inf, -np.inf, 0.0]], np.float32)
    assert distinct([pack(values)]) == 2


def test_nothing_has_no_pattern() -> None:
    assert distinct([pack(np.zeros((8, 0), np.float32))]) == 0
    assert int(distinct_on_device([pack_on_device(torch.zeros(8, 0))])) == 0
