from collections.abc import Callable
from pathlib import Path

import pytest

from export.runtime.errors import GateError
from export.runtime.timing import Effort
from factory.cost import book
from factory.cost.book import LatencyBook
from factory.cost.latency import LatencyModel
from factory.cost.table import Table
from factory.data.dataset import Dataset
from factory.engine import Serial
from factory.profiles import DeviceProfile, TrainingSettings
from factory.score.ranking import Regularised
from factory.score.regulariser import SizeRegulariser
from factory.search.candidate import Pricing, candidate
from factory.search.nominate import reference
from factory.search.scorer import Scorer
from factory.search.shortlist import Entry, load_shortlist, shortlist
from factory.search.target import Target
from factory.search.trials import Trial, TrialBook
from factory.spaces.residual import parse
from factory.training.compute import Compute
from factory.training.full import recipe_of
from factory.training.pictures import standard
from tests.factory.search.conftest import PICTURE, known_law
from tests.factory.search.test_nominate import ToldBook, station

PricingOf = Callable[..., Pricing]
DataOf = Callable[..., Dataset]
DEVICE = DeviceProfile(name="bench", description="this machine", runtime="onnxruntime-cpu", precisions=("fp32",))
TABLE = Table(PICTURE, 2, {}, LatencyModel(known_law()))
SIZE = Regularised(SizeRegulariser(10.0, 100.0))
A = "stem_w8_s1-basic_w8_d1_k3_e1_s1-basic_w16_d1_k3_e1_s2"
BOTH = "stem_w8_s2-basic_w8_d1_k3_e1_s1-basic_w16_d1_k3_e1_s2"
KINDS = "stem_w8_s1-mb_w8_d1_k5_e2_s1-basic_w16_d1_k3_e1_s2"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "SECONDS", 0.002)
    monkeypatch.setattr(book, "CONFIRMED", Effort(rounds=2, seconds=0.0, runs=3, warm_up_s=0.0))


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
    target = Target(pricing, TABLE, LatencyBook(runs, DEVICE), SIZE)
    book = TrialBook(folder.parent / "trials.json", trial, "d")
    shortlist({"bench": best}, 2, [target], scorer, book, Serial(), folder, tick)
    assert [path.name for path in folder.iterdir()] == ["shortlist.json"]
    assert len(seen) == 3
    return load_shortlist(folder, "bench")


def test_candidates_and_the_reference_are_trained_and_the_best_on_validation_comes_first(
    tmp_path: Path, pricing_of: PricingOf, scorer: Scorer, data_of: DataOf
) -> None:
    pricing, data = pricing_of(latency_ms=1000), data_of(side=16)
    entries = shortlisted(tmp_path / "one", pricing, scorer, data, tmp_path)
    assert {e.candidate.genome: e.role for e in entries} == {
        A: "candidate",
        KINDS: "candidate",
        str(reference(Target(pricing, TABLE, LatencyBook(tmp_path, DEVICE), SIZE))): "reference",
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
    with pytest.raises(GateError, match="none of the best networks keeps the budgets of bench when measured"):
        shortlisted(tmp_path / "one", pricing_of(latency_ms=1e-7), scorer, data_of(side=16), tmp_path)


def test_two_kinds_of_station_share_the_trainings_and_each_ranks_what_keeps_its_budgets(
    tmp_path: Path, pricing_of: PricingOf, scorer: Scorer, data_of: DataOf
) -> None:
    data = data_of(side=16)
    told = {A: (0.2, 0.4), KINDS: (0.4, 0.2), BOTH: (0.2, 0.2)}
    targets = [
        station(pricing_of(latency_ms=0.3), ToldBook({g: ms[place] for g, ms in told.items()}, 9.0), device)
        for place, device in enumerate(("a", "b"))
    ]
    best = [candidate(g, pricing_of().costs(parse(g)), scorer(g), SIZE) for g in told]
    recipe = recipe_of(TrainingSettings(batch=16), 1)
    trial = Trial(data.train, data.val, 2, standard(data.train.images), recipe, Compute("cpu", "float32", 1))
    trained: list[str] = []
    shortlist(
        {"a": best, "b": best}, 2, targets, scorer, TrialBook(tmp_path / "trials.json", trial, "d"), Serial(), tmp_path,
        trained.append,
    )  # fmt: skip
    assert sorted(trained) == sorted(told)
    here, there = (load_shortlist(tmp_path, device) for device in ("a", "b"))
    assert {e.candidate.genome: (e.latency_ms, e.everywhere) for e in here} == {A: (0.2, False), BOTH: (0.2, True)}
    assert {e.candidate.genome: (e.latency_ms, e.everywhere) for e in there} == {KINDS: (0.2, False), BOTH: (0.2, True)}
    for entries in (here, there):
        assert [e.val_loss for e in entries] == sorted(e.val_loss for e in entries)
    shared = [next(e for e in entries if e.candidate.genome == BOTH) for entries in (here, there)]
    assert shared[0].history == shared[1].history
