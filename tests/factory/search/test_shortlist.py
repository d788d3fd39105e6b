from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.runtime.errors import GateError
from factory.cost import book
from factory.cost.book import LatencyBook
from factory.cost.probe import probe
from factory.data.dataset import Dataset
from factory.engine import Serial
from factory.profiles import DeviceProfile, TrainingSettings
from factory.score.ranking import Regularised
from factory.score.regulariser import SizeRegulariser
from factory.search.candidate import Candidate, Pricing, candidate, ranked
from factory.search.scorer import Scorer
from factory.search.shortlist import Entry, Proving, diverse, load_shortlist, reference, shortlist, within_budget
from factory.search.trials import Trial, TrialBook
from factory.spaces.residual import Genome, parse, plain_genomes, plan, random_genome
from factory.training.compute import Compute
from factory.training.full import recipe_of
from factory.training.pictures import standard
from factory.workspace import sha256, write_json

PricingOf = Callable[..., Pricing]
DataOf = Callable[..., Dataset]
DEVICE = DeviceProfile(name="bench", description="this machine", runtime="onnxruntime-cpu", precisions=("fp32",))
SIZE = Regularised(SizeRegulariser(10.0, 100.0))
A = "stem_w8_s1-basic_w8_d1_k3_e1_s1-basic_w16_d1_k3_e1_s2"
SAME = "stem_w16_s1-basic_w24_d2_k5_e2_s1-basic_w32_d1_k3_e1_s2"
STEM = "stem_w8_s2-basic_w8_d1_k3_e1_s1-basic_w16_d1_k3_e1_s2"
LONGER = "stem_w8_s1-basic_w8_d1_k3_e1_s1-basic_w16_d1_k3_e1_s2-basic_w16_d1_k3_e1_s1"
KINDS = "stem_w8_s1-mb_w8_d1_k5_e2_s1-basic_w16_d1_k3_e1_s2"


def made(genome: str, score: float, swap: float = 1.0) -> Candidate:
    return Candidate(genome, 10, 0.01, 10, 0.1, swap, 0.5, score)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "SECONDS", 0.002)


def test_the_shortlist_takes_the_best_of_each_kind_of_network() -> None:
    candidates = [made(A, 9), made(SAME, 8), made(STEM, 7), made(LONGER, 6), made(KINDS, 5)]
    assert [c.genome for c in diverse(candidates, 3)] == [A, STEM, LONGER]
    assert [c.genome for c in diverse(candidates, 9)] == [A, STEM, LONGER, KINDS]
    assert [c.genome for c in diverse([made(A, 9, swap=0), *candidates[1:]], 1)] == [SAME]
    assert diverse([], 3) == []


def test_no_better_network_of_a_kind_is_passed_over(pricing_of: PricingOf) -> None:
    rng = np.random.default_rng(0)
    genomes = {str(random_genome(rng, pricing_of().picture)) for _ in range(300)}
    candidates = ranked([made(genome, rng.random()) for genome in genomes])

    def kind(c: Candidate) -> tuple[str, ...]:
        stem, *stages = c.genome.split("-")
        return (stem.split("_")[2], *(stage.split("_")[0] for stage in stages))

    best = {kind(c): max((o for o in candidates if kind(o) == kind(c)), key=lambda o: o.score) for c in candidates}
    assert len(best) > 20
    assert diverse(candidates, 20) == sorted(best.values(), key=lambda c: -c.score)[:20]


def booked(runs: Path, pricing: Pricing, genomes: list[Genome], measured_ms: list[float]) -> LatencyBook:
    """A book with the entries of a machine on which these genomes take as long as given."""
    book = LatencyBook(runs, DEVICE)
    book.measure([plan(parse(KINDS), pricing.picture, 2)], lambda: None)
    (path,) = (runs / "devices").iterdir()
    keys = [sha256(probe(plan(genome, pricing.picture, 2))) for genome in genomes]
    write_json(path, {"p50_ms": dict(zip(keys, measured_ms, strict=True))})
    return book


def test_the_reference_is_the_largest_plain_network_that_fits_when_measured(
    tmp_path: Path, pricing_of: PricingOf
) -> None:
    pricing, rng = pricing_of(latency_ms=0.3, size_mb=0.3), np.random.default_rng(0)
    plain = plain_genomes(pricing.picture)
    costs = [pricing.costs(genome) for genome in plain]
    measured = [c.latency_ms * float(rng.uniform(0.6, 1.3)) for c in costs]
    fitting = [
        (c.macs, genome) for genome, c, ms in zip(plain, costs, measured, strict=True) if c.size_mb <= 0.3 and ms <= 0.3
    ]
    chosen = reference(pricing, booked(tmp_path, pricing, plain, measured))
    assert 1 < len(fitting) < len(plain)
    assert (pricing.costs(parse(str(chosen))).macs, chosen) in fitting
    assert pricing.costs(parse(str(chosen))).macs == max(macs for macs, _ in fitting)


def test_there_is_no_reference_where_no_plain_network_fits(tmp_path: Path, pricing_of: PricingOf) -> None:
    plain = plain_genomes(pricing_of().picture)
    assert reference(pricing_of(size_mb=1e-5), LatencyBook(tmp_path / "a", DEVICE)) is None
    too_slow = booked(tmp_path / "b", pricing_of(), plain, [0.31] * len(plain))
    assert reference(pricing_of(), too_slow) is None


def test_those_that_measure_above_the_budget_are_passed_over(tmp_path: Path, pricing_of: PricingOf) -> None:
    pricing = pricing_of(latency_ms=0.3)
    book = booked(tmp_path, pricing, [parse(g) for g in (A, STEM, KINDS)], [0.31, 0.3, 0.1])
    candidates = [made(A, 9), made(STEM, 8), made(KINDS, 7)]
    kept = within_budget(candidates, 2, pricing, book, lambda: None)
    assert [(c.genome, ms) for c, ms in kept] == [(STEM, 0.3), (KINDS, 0.1)]
    assert [c.genome for c, _ in within_budget(candidates, 1, pricing, book, lambda: None)] == [STEM]


class Stopped(Exception):  # noqa: N818
    pass


def shortlisted(
    folder: Path, pricing: Pricing, scorer: Scorer, data: Dataset, runs: Path, stop: str | None = None
) -> list[Entry]:
    seen: list[str] = []

    def tick(genome: str) -> None:
        seen.append(genome)
        if genome == stop:
            raise Stopped

    best = [candidate(g, pricing.costs(parse(g)), scorer(g), SIZE) for g in (A, KINDS)]
    recipe = recipe_of(TrainingSettings(batch=16), 2)
    trial = Trial(data.train, data.val, 2, standard(data.train.images), recipe, Compute("cpu", "float32", 1))
    folder.mkdir(exist_ok=True)
    proving = Proving(
        pricing, LatencyBook(runs, DEVICE), TrialBook(folder.parent / "trials.json", trial, "d"), Serial()
    )
    shortlist(best, 2, SIZE, scorer, proving, folder, tick)
    assert [path.name for path in folder.iterdir()] == ["shortlist.json"]
    assert len(seen) == 3
    return load_shortlist(folder)


def test_candidates_and_the_reference_are_trained_and_the_best_on_validation_comes_first(
    tmp_path: Path, pricing_of: PricingOf, scorer: Scorer, data_of: DataOf
) -> None:
    pricing, data = pricing_of(latency_ms=1000), data_of(side=16)
    entries = shortlisted(tmp_path / "one", pricing, scorer, data, tmp_path)
    assert {e.candidate.genome: e.role for e in entries} == {
        A: "candidate",
        KINDS: "candidate",
        str(reference(pricing, LatencyBook(tmp_path, DEVICE))): "reference",
    }
    assert [e.val_loss for e in entries] == sorted(e.val_loss for e in entries)
    for e in entries:
        assert len(e.history) == 2
        assert (e.val_loss, e.val_balanced_accuracy) == (
            e.history[-1]["val_loss"],
            e.history[-1]["val_balanced_accuracy"],
        )
        assert e.latency_ms > 0 and e.candidate.swap > 0
    with pytest.raises(Stopped):
        shortlisted(tmp_path / "two", pricing, scorer, data, tmp_path, stop=KINDS)
    assert shortlisted(tmp_path / "two", pricing, scorer, data, tmp_path) == entries


def test_nothing_within_the_measured_budget_is_a_gate(
    tmp_path: Path, pricing_of: PricingOf, scorer: Scorer, data_of: DataOf
) -> None:
    with pytest.raises(GateError, match="none of the best networks keeps the latency budget when measured"):
        shortlisted(tmp_path / "one", pricing_of(latency_ms=1e-7), scorer, data_of(side=16), tmp_path)
