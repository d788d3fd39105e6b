from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.runtime.errors import GateError
from factory.cost.latency import LatencyModel
from factory.cost.table import Table
from factory.engine import Serial
from factory.profiles import SearchSettings
from factory.score.ranking import Regularised
from factory.score.regulariser import SizeRegulariser
from factory.score.swap import swap_score
from factory.search import evolution
from factory.search.candidate import Candidate, Pricing, ranked
from factory.search.evolution import ask
from factory.search.run import evolve
from factory.search.scorer import Scorer
from factory.search.space import smallest_genomes
from factory.search.state import open_state
from factory.search.target import Target
from factory.spaces.deployable import Deployable
from factory.spaces.network import build
from factory.spaces.residual import parse, plan, random_genome
from tests.factory.search.conftest import MadeUpBook, known_law

PricingOf = Callable[..., Pricing]
SETTINGS = SearchSettings(candidates=60, population=12, repeats=1, workers=1)
SIZE = SizeRegulariser(mu=20.0, sigma=100.0)
RANKING = Regularised(SIZE)


@pytest.fixture
def _few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolution, "TRIES", 300)


def priced(pricing: Pricing) -> Target:
    """A kind of station on which nothing was measured."""
    return Target(pricing, Table(pricing.picture, 2, {}, LatencyModel(known_law())), MadeUpBook(), RANKING)


class Interrupted(Exception):  # noqa: N818
    pass


def evolved(
    path: Path, pricing: Pricing, scorer: Scorer, settings: SearchSettings = SETTINGS, stop: int | None = None
) -> list[Candidate]:
    """Search with the state at `path`; with `stop`, until that many candidates are counted."""

    def tick(done: int) -> None:
        if stop is not None and done >= stop:
            raise Interrupted

    with open_state(path) as state:
        return evolve(settings, [priced(pricing)], scorer, Serial(), state, tick)


def test_every_candidate_is_new_keeps_the_budgets_and_is_what_it_says(
    tmp_path: Path, pricing_of: PricingOf, scorer: Scorer
) -> None:
    pricing = pricing_of()
    found = evolved(tmp_path / "s", pricing, scorer)
    assert len({c.genome for c in found}) == len(found) == 60
    for c in found:
        costs = pricing.costs(parse(c.genome))
        assert (c.params, c.size_mb, c.macs, c.latency_ms) == (
            costs.params,
            costs.size_mb,
            costs.macs,
            costs.latency_ms,
        )
        assert costs.size_mb <= 0.1
        assert c.latency_ms * 1.25 <= 0.3
        assert c.score == pytest.approx(c.swap * SIZE.factor(c.params))
    c = found[7]
    score = swap_score(lambda: build(plan(parse(c.genome), pricing.picture, 2)), scorer.images, 0, scorer.protocol)
    assert score is not None
    assert (c.swap, c.saturation) == (score.swap, score.saturation)


def test_the_search_improves_on_drawing_at_random(tmp_path: Path, pricing_of: PricingOf, scorer: Scorer) -> None:
    settings = SETTINGS.model_copy(update={"candidates": 120})
    found = evolved(tmp_path / "s", pricing_of(), scorer, settings)
    first, last = ([c.score for c in part] for part in (found[:12], found[-36:]))
    assert np.median(last) > np.median(first)
    assert max(last) >= max(first)


def test_the_same_seed_finds_the_same_and_another_seed_others(
    tmp_path: Path, pricing_of: PricingOf, scorer: Scorer
) -> None:
    one = evolved(tmp_path / "1", pricing_of(), scorer)
    assert evolved(tmp_path / "2", pricing_of(), scorer) == one
    other = evolved(tmp_path / "3", pricing_of(), scorer, SETTINGS.model_copy(update={"seed": 1}))
    assert {c.genome for c in other} != {c.genome for c in one}


@pytest.mark.parametrize("stops", [(1,), (24,), (37,), (60,), (5, 13, 13, 48)])
def test_an_interrupted_search_ends_as_an_uninterrupted_one(
    stops: tuple[int, ...], tmp_path: Path, pricing_of: PricingOf, scorer: Scorer
) -> None:
    for stop in stops:
        with pytest.raises(Interrupted):
            evolved(tmp_path / "stopped", pricing_of(), scorer, stop=stop)
    with open_state(tmp_path / "stopped") as state:
        generations, kept = state.restore(np.random.default_rng()), state.told(0)
    assert len(kept) == 12 * generations == 12 * ((stops[-1] - 1) // 12)
    assert evolved(tmp_path / "stopped", pricing_of(), scorer) == evolved(tmp_path / "whole", pricing_of(), scorer)


def test_a_search_that_is_done_asks_for_nothing_more(tmp_path: Path, pricing_of: PricingOf, scorer: Scorer) -> None:
    found = evolved(tmp_path / "s", pricing_of(), scorer)
    ticks: list[int] = []
    with open_state(tmp_path / "s") as state:
        again = evolve(SETTINGS, [priced(pricing_of())], scorer, Serial(), state, ticks.append)
    assert again == found
    assert ticks == [60]


def test_progress_counts_every_candidate_once(tmp_path: Path, pricing_of: PricingOf, scorer: Scorer) -> None:
    ticks: list[int] = []
    with open_state(tmp_path / "s") as state:
        evolve(SETTINGS, [priced(pricing_of())], scorer, Serial(), state, ticks.append)
    assert sorted(set(ticks)) == list(range(61))
    assert ticks == sorted(ticks)


@pytest.mark.usefixtures("_few_tries")
def test_budgets_that_nothing_keeps_are_a_gate(tmp_path: Path, pricing_of: PricingOf, scorer: Scorer) -> None:
    with pytest.raises(GateError, match="no network of the space keeps the budgets") as caught:
        evolved(tmp_path / "s", pricing_of(latency_ms=1e-6), scorer)
    assert caught.value.exit_code == 1


@pytest.mark.usefixtures("_few_tries")
def test_budgets_that_only_the_least_networks_keep_still_give_candidates(
    tmp_path: Path, pricing_of: PricingOf, scorer: Scorer
) -> None:
    least = min(pricing_of().costs(genome).size_mb for genome in smallest_genomes(pricing_of()))
    found = evolved(tmp_path / "s", pricing_of(latency_ms=100, size_mb=least), scorer)
    assert found
    assert all(c.size_mb <= least for c in found)


def test_children_descend_from_the_better_part_of_the_population(pricing_of: PricingOf) -> None:
    """The winner of three comes from the best third in 1 - (2/3)^3 = 70 % of tournaments, if the best wins."""
    picture, rng = pricing_of().picture, np.random.default_rng(0)
    space = Deployable(picture, 2)
    drawn = [random_genome(rng, picture) for _ in range(30)]
    told = [str(replace(genome, stem_width=32 if i < 10 else 8)) for i, genome in enumerate(drawn)]
    asked = ask(told, told, 200, space, lambda _: True, rng)
    stems = [parse(arch).stem_width for arch, _ in asked]
    assert 0.5 < stems.count(32) / len(stems) < 0.85
    best_ten = ask(told[:10], told, 100, space, lambda _: True, rng)
    assert [parse(arch).stem_width for arch, _ in best_ten].count(8) < 20  # a few fresh ones: the rest are no parents


def test_what_is_not_admitted_or_was_seen_is_never_asked(pricing_of: PricingOf) -> None:
    space, rng = Deployable(pricing_of().picture, 2), np.random.default_rng(0)
    asked = ask([], (), 50, space, lambda arch: len(arch) if "mb" in arch else None, rng)
    assert len(asked) == len({arch for arch, _ in asked}) == 50
    assert all("mb" in arch and said == len(arch) for arch, said in asked)
    again = ask([arch for arch, _ in asked], {arch for arch, _ in asked}, 50, space, lambda _: 0, rng)
    assert not {arch for arch, _ in asked} & {arch for arch, _ in again}


def test_a_degenerate_network_is_told_but_never_chosen(tmp_path: Path, pricing_of: PricingOf, scorer: Scorer) -> None:
    blind = replace(scorer, images=torch.zeros_like(scorer.images))
    found = evolved(tmp_path / "s", pricing_of(), blind)
    assert len(found) == 60
    assert {(c.swap, c.saturation, c.score) for c in found} == {(0.0, 0.0, 0.0)}
    assert [c.genome for c in ranked(found)] == sorted(c.genome for c in found)
