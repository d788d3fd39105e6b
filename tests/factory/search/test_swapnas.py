from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from factory.search.swapnas import swap_nas
from factory.spaces.catalogue import SPACES
from factory.spaces.nasbench201 import NasBench201


def heavy(archs: Sequence[str]) -> Iterable[float | None]:
    """A score whose best cell is known: the one with six 3 x 3 convolutions. Cells without any are degenerate."""
    return [float(arch.count("nor_conv_3x3")) or None for arch in archs]


def searched(seed: int, number: int = 150) -> list[tuple[str, float]]:
    return swap_nas(NasBench201(), heavy, number, np.random.default_rng(seed), lambda _: True)


def test_it_finds_the_best_of_fifteen_thousand_cells_with_few_scores() -> None:
    best = [max(score for _, score in searched(seed)) for seed in range(5)]
    drawn = [
        [NasBench201().sample(np.random.default_rng(seed + i)) for i in range(150)] for seed in range(0, 1000, 200)
    ]
    by_chance = [max(arch.count("nor_conv_3x3") for arch in archs) for archs in drawn]
    assert best.count(6.0) >= 4
    assert np.mean(best) > np.mean(by_chance)


def test_it_spends_what_it_may_on_cells_not_seen_before_and_leaves_out_the_degenerate() -> None:
    asked: list[str] = []

    def listening(archs: Sequence[str]) -> Iterable[float | None]:
        asked.extend(archs)
        return heavy(archs)

    told = swap_nas(NasBench201(), listening, 95, np.random.default_rng(0), lambda arch: "avg_pool" not in arch)
    assert len(asked) == len(set(asked)) == 95
    assert [arch for arch, _ in told] == [arch for arch in asked if "nor_conv_3x3" in arch]
    assert not any("avg_pool" in arch for arch in asked)


def test_the_seed_decides() -> None:
    assert searched(3, 60) == searched(3, 60)
    assert searched(3, 60) != searched(4, 60)


@pytest.mark.parametrize("name", list(SPACES))
def test_it_moves_in_every_space(name: str) -> None:
    space = SPACES[name]
    told = swap_nas(space, lambda archs: [float(len(a)) for a in archs], 30, np.random.default_rng(0), space.connected)
    assert len(told) == 30
    assert all(space.check(arch) == arch for arch, _ in told)


def test_a_space_with_little_to_give_ends_the_search() -> None:
    only = NasBench201().sample(np.random.default_rng(0))
    told = swap_nas(NasBench201(), lambda archs: [1.0] * len(archs), 30, np.random.default_rng(0), only.__eq__)
    assert len(told) <= 1
