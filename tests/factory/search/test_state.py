import sqlite3
from pathlib import Path

import numpy as np
import pytest

from factory.search.candidate import Candidate
from factory.search.state import open_state

ROWS = [Candidate(f"g{i}", i, i / 7, 2**40 + i, 1 / (i + 1), 3.0, 0.1, 1e-9 * i) for i in range(6)]


def test_generations_come_back_as_told_with_the_random_state_behind_the_last(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    with open_state(tmp_path / "s") as state:
        for generation in range(3):
            rng.random(5)
            state.tell(generation, ROWS[2 * generation : 2 * generation + 2], rng)
    other = np.random.default_rng(0)
    with open_state(tmp_path / "s") as state:
        assert (state.restore(other), state.told(0)) == (3, ROWS)
    assert other.random(4).tolist() == rng.random(4).tolist()


def test_an_empty_state_leaves_the_generator_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    with open_state(tmp_path / "s") as state:
        assert (state.restore(rng), state.told(3), state.ended(0)) == (0, [], False)
    assert rng.random() == np.random.default_rng(3).random()


def test_a_generation_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with open_state(tmp_path / "s") as state:
        state.tell(0, ROWS[:2], rng)
        with pytest.raises(sqlite3.IntegrityError):
            state.tell(0, ROWS[2:], rng)  # the candidates go in, then the generation's number is taken
    with open_state(tmp_path / "s") as state:
        assert (state.restore(rng), state.told(0)) == (1, ROWS[:2])


def test_every_round_comes_back_with_those_before_it_and_says_when_it_is_over(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with open_state(tmp_path / "s") as state:
        for generation, number in enumerate((0, 0, 2)):
            state.tell(generation, ROWS[2 * generation : 2 * generation + 2], rng, number)
    with open_state(tmp_path / "s") as state:
        assert [state.told(number) for number in range(4)] == [ROWS[:4], ROWS[:4], ROWS, ROWS]
        assert [state.ended(number) for number in range(4)] == [True, True, False, False]
