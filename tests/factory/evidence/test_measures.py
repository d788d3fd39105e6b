import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from export.runtime.errors import UsageError
from factory.evidence.measures import (
    SCORES,
    Measure,
    checked_scores,
    labels,
    params,
    protocol_for,
    regulariser_for,
    scored_size,
    space_named,
)
from factory.evidence.pictures import load_pictures
from factory.score.protocol import FACTORY, PAPER
from factory.score.regulariser import SizeRegulariser, derived
from factory.score.swap import swap_score
from factory.score.zerocost import METRICS
from factory.search.scorer import Scorer
from factory.spaces.catalogue import SPACES

MICRO = SPACES["transnas-micro"]
CELL = "64-41414-3_12_031"
CUT = "64-41414-0_00_001"  # an edge from node 2, to which nothing leads
SIZE = SizeRegulariser(3.0, 4.0)


def measure(*names: str) -> Measure:
    protocol = replace(protocol_for(MICRO, None), samples=8, repeats=2)
    return Measure(Scorer(MICRO, load_pictures(None, 8, 32, 0), 63, 4, protocol), names, SIZE)


def test_there_are_fifteen_scores() -> None:
    assert len(SCORES) == len(set(SCORES)) == 15
    assert checked_scores([]) == SCORES
    assert checked_scores(["flops", "swap"]) == ("swap", "flops")
    with pytest.raises(UsageError, match=r"'acc'.*any of swap, regularised"):
        checked_scores(["acc"])
    with pytest.raises(UsageError, match=r"'darts2'.*one of residual, darts"):
        space_named("darts2")


def test_every_space_has_its_protocol() -> None:
    for name, space in SPACES.items():
        chosen, paper = protocol_for(space, None), protocol_for(space, "paper")
        assert chosen.name == ("paper" if name == "darts" else "factory")
        assert (paper.samples, paper.repeats) == (PAPER.samples, PAPER.repeats)
        assert chosen.image_size == paper.image_size == 32
        assert scored_size(space, protocol_for(space, "factory")) == space.proxy
        one_cell = replace(space.full, channels=3, depth=1)
        assert scored_size(space, paper) == (one_cell if name == "darts" else space.proxy)
    assert protocol_for(MICRO, "factory").samples == FACTORY.samples


def test_parameters_are_those_of_the_built_network() -> None:
    for space in SPACES.values():
        arch = space.sample(np.random.default_rng(1))
        built = sum(parameter.numel() for parameter in space.network(arch, space.proxy).parameters())
        assert params(space, arch, space.proxy) == built


def test_the_regulariser_comes_from_the_space_and_the_seed(few_sizes: None) -> None:
    protocol = protocol_for(MICRO, None)
    assert regulariser_for(MICRO, protocol, 0) == regulariser_for(MICRO, protocol, 0)
    assert regulariser_for(MICRO, protocol, 0).mu > 0
    assert derived([2000, 4000, 3000]).factor(4000) >= derived([2000, 4000, 3000]).factor(2000)


def test_scores_are_those_of_their_own_functions() -> None:
    task = measure(*SCORES)
    own = task(CELL)
    assert own is not None
    assert set(own.scores) == set(own.seconds) == set(SCORES)
    images, protocol = task.scorer.images, task.scorer.protocol
    swap = swap_score(lambda: MICRO.network(CELL, MICRO.proxy), images, 4, protocol)
    assert own.swap == swap and swap is not None
    assert own.scores["swap"] == swap.swap
    assert own.scores["regularised"] == swap.swap * math.exp(-((own.proxy_params / 1e3 - 3.0) ** 2) / 4.0)
    for name, metric in METRICS.items():
        value = metric(MICRO.network(CELL, MICRO.proxy), images, labels(8), 4)
        assert own.scores[name] == pytest.approx(value, rel=1e-6, nan_ok=True)
    assert own.scores["params"] == own.params == params(MICRO, CELL, MICRO.full)
    assert own.scores["flops"] > own.params
    assert torch.equal(labels(12), torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]))


def test_only_what_is_asked_for_is_measured() -> None:
    own = measure("params")(CELL)
    assert own is not None
    assert set(own.scores) == {"params"}
    assert own.swap is None


def test_a_network_without_a_path_is_invalid() -> None:
    assert measure("swap")(CUT) is None
    assert measure("params")(CUT) is None


def test_the_task_travels() -> None:
    task = measure("swap", "nwot")
    here, there = task(CELL), pickle.loads(pickle.dumps(task))(CELL)  # noqa: S301 - made in this line
    assert here is not None
    assert here.scores == there.scores
