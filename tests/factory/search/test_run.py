import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.runtime.errors import GateError
from factory.data.dataset import Dataset, Part
from factory.engine import Serial, engine
from factory.profiles import SearchSettings
from factory.score.ranking import PowerLaw, Regularised
from factory.search.candidate import Pricing, pareto, ranked
from factory.search.run import load_search, regulariser, search
from factory.search.saturation import SATURATED, least_saturated
from factory.search.scorer import Scorer, score_images
from factory.search.space import survey
from factory.spaces.residual import parse, random_genome
from factory.training.pictures import Standard, standard
from tests.factory.search.conftest import Measuring, aimed

PricingOf = Callable[..., Pricing]
MeasuringOf = Callable[..., Measuring]
DataOf = Callable[..., Dataset]


def searched(folder: Path, pricing: Pricing, measuring: Measuring, data: Dataset, workers: int) -> bytes:
    folder.mkdir(exist_ok=True)
    settings = SearchSettings(candidates=30, population=10, repeats=2, workers=workers)
    ranking = Regularised(regulariser(survey(pricing)))
    norm = standard(data.train.images)
    with engine("processes", workers, None) as workers_:
        target = aimed(pricing, measuring, ranking)
        search(settings, [target], data.train, norm, workers_, folder, lambda _: None, lambda _: None)
    assert [path.name for path in folder.iterdir()] == ["search.json"]
    return (folder / "search.json").read_bytes()


def test_two_processes_find_what_one_finds_to_the_last_bit(
    tmp_path: Path, pricing_of: PricingOf, measuring_of: MeasuringOf, data_of: DataOf
) -> None:
    data = data_of(side=16)
    one = searched(tmp_path / "1", pricing_of(), measuring_of(), data, workers=1)
    assert searched(tmp_path / "2", pricing_of(), measuring_of(), data, workers=2) == one
    document = json.loads(one)
    found = load_search(tmp_path / "1", "bench")
    assert document["evaluated"] == found.evaluated == 30
    assert len(found.candidates) > 20
    assert found.candidates == ranked(found.candidates)
    assert found.front == pareto(found.candidates)
    assert found.ranking == Regularised(regulariser(survey(pricing_of()))).as_json()
    assert document["protocol"]["digest"] == found.protocol.digest


def test_the_least_saturated_protocol_is_chosen_and_a_saturated_one_is_said(
    tmp_path: Path, pricing_of: PricingOf, measuring_of: MeasuringOf, data_of: DataOf
) -> None:
    train = data_of(side=16).train
    norm = standard(train.images)
    tried = least_saturated(pricing_of(), train, norm, SearchSettings(repeats=3), Serial())
    assert [m.saturation for m in tried] == sorted(m.saturation for m in tried)
    assert {m.protocol.samples for m in tried} == {16, 32, min(64, len(train.labels))}
    assert {m.protocol.repeats for m in tried} == {3}
    said: list[str] = []
    settings = SearchSettings(candidates=20, population=10, repeats=1)
    ranking = PowerLaw((("macs", 1.0),))
    target = aimed(pricing_of(), measuring_of(), ranking)
    search(settings, [target], train, norm, Serial(), tmp_path, lambda _: None, said.append)
    assert any("saturated" in text for text in said) == (tried[0].saturation > SATURATED)
    found = load_search(tmp_path, "bench")
    assert found.protocol == replace(tried[0].protocol, repeats=1)
    assert all(c.score == pytest.approx(c.macs) for c in found.candidates)


def test_one_search_serves_a_roomy_and_a_tight_kind_of_station(
    tmp_path: Path, pricing_of: PricingOf, measuring_of: MeasuringOf, data_of: DataOf
) -> None:
    """Of random networks almost none keep the tight budgets: those that are found were sought for them."""
    train = data_of(side=16).train
    ranking = PowerLaw((("macs", 1.0),))
    law = measuring_of().table.model
    roomy, tight = pricing_of(2.0, 1.0).relearned(law), pricing_of(0.15, 0.02).relearned(law)
    here = aimed(roomy, measuring_of(), ranking)
    limits = tight.limits.model_copy(update={"device": "tight"})
    there = aimed(Pricing(tight.picture, 2, limits, law), measuring_of(factor=0.9), ranking)
    settings = SearchSettings(candidates=30, population=10, repeats=1)
    search(settings, [here, there], train, standard(train.images), Serial(), tmp_path, lambda _: None, lambda _: None)
    own, other = load_search(tmp_path, "bench"), load_search(tmp_path, "tight")
    assert own.evaluated == other.evaluated == 60
    assert len(own.candidates) > 40 and 15 < len(other.candidates) < 60
    for found, pricing in ((own, roomy), (other, tight)):
        assert found.front == pareto(found.candidates)
        assert found.proof.settled
        assert all(c.known_ms <= pricing.limits.latency_ms and c.size_mb <= pricing.limits.size_mb for c in found.front)
    shared = {c.genome: c for c in own.candidates}
    assert sum(c.genome in shared for c in other.candidates) > 15  # what keeps the tight budgets keeps the roomy ones
    assert all(shared[c.genome].swap == c.swap for c in other.candidates if c.genome in shared)
    drawn = [roomy.costs(random_genome(np.random.default_rng(seed), roomy.picture)) for seed in range(200)]
    assert sum(map(tight.keeps, drawn)) < 30


def test_a_score_does_not_depend_on_the_threads_of_its_process(scorer: Scorer, pricing_of: PricingOf) -> None:
    rng = np.random.default_rng(0)
    genomes = [str(random_genome(rng, pricing_of().picture)) for _ in range(6)]
    torch.set_num_threads(2)
    together = list(Serial().map(scorer, genomes))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert together == [scorer(genome) for genome in genomes]
    assert len({score.swap for score in together if score}) > 2


def test_budgets_out_of_reach_are_a_gate_that_names_the_tightest(
    tmp_path: Path, pricing_of: PricingOf, measuring_of: MeasuringOf, data_of: DataOf
) -> None:
    data, measuring = data_of(side=16), measuring_of()
    with pytest.raises(GateError, match=r"found latency_ms is the tightest: the limit is 0\.001, the least") as caught:
        searched(tmp_path / "a", pricing_of(latency_ms=0.001), measuring, data, workers=1)
    assert caught.value.exit_code == 1
    with pytest.raises(GateError, match=r"size_mb is the tightest: the limit is 1e-05, the least"):
        searched(tmp_path / "b", pricing_of(size_mb=1e-5), measuring, data, workers=1)


def test_the_survey_reports_what_the_space_offers(pricing_of: PricingOf) -> None:
    report = survey(pricing_of())
    everything = (*report.sample, *report.smallest)
    document = report.as_json()
    assert document["satisfiable"] is True
    kept = [c.size_mb <= 0.1 and c.latency_ms * 1.25 <= 0.3 for c in report.sample]
    assert document["feasible_share"] == sum(kept) / len(kept)
    assert 0 < sum(kept) < len(kept)
    sizes = document["quantities"]["size_mb"]
    assert sizes == {
        "min": min(c.size_mb for c in everything),
        "median": float(np.median([c.size_mb for c in everything])),
        "max": max(c.size_mb for c in everything),
        "limit": 0.1,
    }
    assert document["quantities"]["latency_ms"]["limit"] == 0.3
    assert document["quantities"]["mmacs"]["limit"] is None
    assert document["genomes"] > 10**9
    assert survey(pricing_of()) == report


def test_nothing_of_the_space_is_smaller_than_its_smallest(pricing_of: PricingOf) -> None:
    report = survey(pricing_of(), seed=5)
    assert min(c.size_mb for c in report.smallest) <= min(c.size_mb for c in report.sample)
    assert min(c.latency_ms for c in report.smallest) <= min(c.latency_ms for c in report.sample)


def test_the_regulariser_aims_at_the_largest_network_that_fits(pricing_of: PricingOf) -> None:
    report = survey(pricing_of())
    fitting = [c.params for c in (*report.sample, *report.smallest) if pricing_of().keeps(c)]
    size = regulariser(report)
    assert size.mu * 1000 == pytest.approx(max(fitting))
    assert size.factor(max(fitting)) == pytest.approx(1)
    assert size.factor(max(fitting) // 2) == pytest.approx(np.exp(-1 / 4), rel=1e-2)


def test_scores_are_drawn_from_all_classes_in_turn(data_of: DataOf) -> None:
    whole = data_of(train=60, classes=3, side=16).train
    rare = np.flatnonzero((whole.labels != 2) | (np.arange(60) < 9))  # three of the third class are left
    train = Part(whole.images[rare], whole.labels[rare], (), ())
    norm = Standard((0.25,), (0.5,))
    images = score_images(train, norm, 15, seed=0)
    assert images.shape == (15, 1, 16, 16)
    known = {((picture / 255 - 0.25) / 0.5).astype(np.float32).tobytes(): int(label)
             for picture, label in zip(train.images.astype(np.float32), train.labels, strict=True)}  # fmt: skip
    labels = [known[np.ascontiguousarray(image.permute(1, 2, 0).numpy()).tobytes()] for image in images]
    assert Counter(labels) == {0: 6, 1: 6, 2: 3}
    assert len({image.numpy().tobytes() for image in images}) == 15
    assert torch.equal(images, score_images(train, norm, 15, seed=0))
    assert not torch.equal(images, score_images(train, norm, 15, seed=1))
    assert len(score_images(train, norm, 64, seed=0)) == len(train.labels)


def test_pricing_holds_both_budgets_with_the_margin_of_latency(pricing_of: PricingOf) -> None:
    costs = pricing_of().costs(parse("stem_w8_s2-basic_w8_d1_k3_e1_s1-basic_w16_d1_k3_e1_s2"))
    assert costs.latency_upper_ms == pytest.approx(1.25 * costs.latency_ms)
    assert pricing_of(costs.latency_upper_ms, costs.size_mb).keeps(costs)
    assert not pricing_of(costs.latency_ms, costs.size_mb).keeps(costs)
    assert not pricing_of(costs.latency_upper_ms, 0.999 * costs.size_mb).keeps(costs)
