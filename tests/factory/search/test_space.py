import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from factory.data.dataset import Dataset
from factory.engine import Serial
from factory.profiles import SearchSettings
from factory.score.ranking import PowerLaw
from factory.search.candidate import Pricing
from factory.search.run import search
from factory.search.space import smallest_genomes, survey
from factory.spaces.deployable import Deployable
from factory.spaces.plan import Input
from factory.spaces.residual import fits_input, parse, random_genome
from factory.spaces.restriction import allowed, allows, choices, draw, parse_restriction
from factory.training.pictures import standard
from tests.factory.search.conftest import Measuring, aimed

PricingOf = Callable[..., Pricing]

LIMITS = parse_restriction("kinds=basic,mb+depths=1,2+stem_strides=1,2")


def test_nothing_is_admitted_that_the_line_does_not_allow(pricing_of: PricingOf) -> None:
    free, limited = pricing_of(5.0, 5.0), pricing_of(5.0, 5.0, LIMITS)
    rng = np.random.default_rng(0)
    archs = [str(random_genome(rng, free.picture)) for _ in range(300)]
    kept = [arch for arch in archs if limited.admit(arch)]
    assert kept == [arch for arch in archs if free.admit(arch) and allows(LIMITS, parse(arch))]
    assert 0 < len(kept) < sum(free.admit(arch) is not None for arch in archs)


def test_the_moves_of_a_limited_space_stay_inside_it_and_cross_its_gaps() -> None:
    limits = parse_restriction("kinds=basic,mb+depths=1,4+widths=8,64,256+stem_strides=1,4")
    space, rng = Deployable(Input(40, 40, 1), 2, limits=limits), np.random.default_rng(0)
    arch, made = space.sample(rng), set()
    for _ in range(1000):
        arch = space.mutate(arch, rng)
        assert allows(limits, parse(arch))
        assert fits_input(parse(arch), space.picture)
        made |= choices(parse(arch))
    assert made == set(allowed(limits))


def test_the_survey_of_a_limited_space_is_of_what_is_left(pricing_of: PricingOf) -> None:
    limits = parse_restriction("kinds=mb+depths=3+widths=48,64+kernels=5+stem_strides=1")
    free, limited = survey(pricing_of()), survey(pricing_of(space=limits))
    assert min(c.params for c in limited.sample) > 48 * 25 * 3 * 2
    assert limited.as_json()["genomes"] < free.as_json()["genomes"]
    assert limited.feasible_share < free.feasible_share


@pytest.mark.parametrize("kind", ["basic", "bottle", "mb"])
def test_the_smallest_networks_of_a_limited_space_are_allowed_and_smallest(pricing_of: PricingOf, kind: str) -> None:
    limits = parse_restriction(f"kinds={kind}+depths=2,4+widths=24,64+kernels=5")
    pricing = pricing_of(space=limits)
    smallest = smallest_genomes(pricing)
    assert all(allows(limits, genome) for genome in smallest)
    sample = [pricing.costs(draw(limits, np.random.default_rng(seed), pricing.picture)).size_mb for seed in range(500)]
    assert min(pricing.costs(g).size_mb for g in smallest) <= 1.01 * min(sample)


def test_a_search_never_leaves_the_limited_space(
    tmp_path: Path, pricing_of: PricingOf, measuring_of: Callable[..., Measuring], data_of: Callable[..., Dataset]
) -> None:
    train = data_of(side=16).train
    settings = SearchSettings(candidates=40, population=10, repeats=1)
    search(
        settings, [aimed(pricing_of(space=LIMITS), measuring_of(), PowerLaw((("macs", 1.0),)))], train,
        standard(train.images), Serial(), tmp_path, lambda _: None, lambda _: None,
    )  # fmt: skip
    genomes = [
        row["genome"] for row in json.loads((tmp_path / "search.json").read_text())["targets"]["bench"]["candidates"]
    ]
    assert len(set(genomes)) > 30
    for genome in genomes:
        assert not any(forbidden in genome for forbidden in ("bottle", "_d3", "_d4"))
        assert "_s4" not in genome.split("-", maxsplit=1)[0]
