import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from export.runtime.errors import GateError
from factory.cost.count import count
from factory.data.dataset import Dataset
from factory.engine import engine
from factory.profiles import SearchSettings
from factory.score.ranking import PowerLaw
from factory.search.candidate import Candidate, Pricing
from factory.search.compare import (
    NETWORKS,
    Sample,
    compare,
    distributions,
    document,
    judge,
    lost,
    narrow,
    sample,
    suggestions,
)
from factory.spaces.residual import parse, plan, random_genome
from factory.spaces.restriction import EVERYTHING, allows, parse_restriction
from factory.training.pictures import standard

FEW = 25
PricingOf = Callable[..., Pricing]
MACS = PowerLaw((("macs", 1.0),), "macs")


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.search.compare.NETWORKS", FEW)
    monkeypatch.setattr("factory.search.compare.DRAWS", 400)
    monkeypatch.setattr("factory.search.saturation.PROBED", 2)


def scored(arch: str, score: float, latency_ms: float, size_mb: float = 1.0) -> Candidate:
    return Candidate(
        genome=arch, params=1, size_mb=size_mb, macs=1, latency_ms=latency_ms, swap=1.0, saturation=0.5, score=score
    )


def arch(kind: str = "basic", width: int = 16, depth: int = 1, kernel: int = 3, stem: int = 1) -> str:
    stage = f"{kind}_w{width}_d{depth}_k{kernel}_e2_s"
    return f"stem_w8_s{stem}-{stage}1-{stage}2"


@pytest.fixture
def pool() -> list[Candidate]:
    """A front of twenty: score rises with latency; one of depth 2, the best of width 64. Behind it, worse by kernel."""
    front = [
        scored(arch(width=64 if i == 19 else 16, depth=2 if i == 3 else 1), 10.0 + i, 1.0 + i, 1.0) for i in range(20)
    ]
    behind = [scored(arch(kernel=5), 5.0 - i / 10, 30.0, 2.0) for i in range(15)]
    few = [scored(arch(kind="mb"), 1.0, 40.0, 2.0) for _ in range(4)]
    return [*front, *behind, *few]


def test_samples_keep_the_budgets_use_them_up_and_are_allowed(pricing_of: PricingOf) -> None:
    pricing, limits = pricing_of(), parse_restriction("kinds=basic,mb+depths=1,2")
    found = sample(pricing, limits, 0)
    assert len(found.networks) == NETWORKS
    for text, costs in found.networks.items():
        genome = parse(text)
        assert allows(limits, genome)
        assert costs == pricing.costs(genome)
        assert costs.latency_upper_ms <= 0.3 and costs.size_mb <= 0.1
        assert costs.latency_upper_ms >= 0.15 or costs.size_mb >= 0.05


@pytest.mark.usefixtures("_few")
def test_a_sample_depends_on_its_seed_and_limits_alone(pricing_of: PricingOf) -> None:
    pricing, limits = pricing_of(), parse_restriction("kernels=3")
    assert sample(pricing, limits, 0) == sample(pricing_of(space=limits), limits, 0)
    assert sample(pricing, limits, 0).networks.keys() != sample(pricing, limits, 1).networks.keys()


def test_the_feasible_share_is_that_of_random_genomes(pricing_of: PricingOf) -> None:
    pricing, rng = pricing_of(), np.random.default_rng(7)
    kept = [pricing.keeps(pricing.costs(random_genome(rng, pricing.picture))) for _ in range(1000)]
    assert sample(pricing, EVERYTHING, 0).feasible_share == pytest.approx(np.mean(kept), rel=0.25)


def test_distributions_are_told_apart_by_the_greatest_distance_of_their_curves() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.normal(0, 1, 150).tolist(), rng.normal(0.6, 1, 120).tolist()
    found = distributions(low, high)
    gaps = [abs(np.mean(np.array(low) <= x) - np.mean(np.array(high) <= x)) for x in (*low, *high)]
    assert found["ks"]["statistic"] == pytest.approx(max(gaps))
    assert found["better"] == "B"
    assert found["above"]["B"] == np.mean([x > np.median(low) for x in high])
    swapped = distributions(high, low)
    assert swapped["better"] == "A"
    assert swapped["above"] == {"A": found["above"]["B"], "B": found["above"]["A"]}
    assert distributions(low, low)["better"] == "neither"
    assert distributions(low, rng.normal(0, 1, 150).tolist())["better"] == "neither"  # by chance alone


def test_what_a_choice_is_worth_is_what_the_front_loses_without_it(pool: list[Candidate]) -> None:
    found = {v.choice: v for v in judge(pool, EVERYTHING)}
    assert len(found) == 22
    assert (found["depths=2"].front_lost, found["depths=2"].best_lost) == (pytest.approx(1 / 20), 0)
    assert (found["widths=64"].front_lost, found["widths=64"].best_lost) == (
        pytest.approx(1 / 20),
        pytest.approx(1 / 29),
    )
    assert (found["kernels=5"].networks, found["kernels=5"].front_lost, found["kernels=5"].best_lost) == (15, 0, 0)
    assert found["kernels=5"].median_with == pytest.approx(4.3)
    assert found["kernels=5"].median_without == pytest.approx(17.5)
    assert (found["kinds=basic"].front_lost, found["kinds=basic"].best_lost) == (1, pytest.approx(28 / 29))
    assert (found["kinds=bottle"].networks, found["kinds=bottle"].median_with) == (0, None)
    assert (found["stem_strides=1"].front_lost, found["stem_strides=1"].median_without) == (1, None)


def test_the_last_of_its_key_is_not_judged(pool: list[Candidate]) -> None:
    named = {v.choice for v in judge(pool, parse_restriction("stem_strides=1+kinds=basic,mb"))}
    assert not any(name.startswith("stem_strides") for name in named)
    assert {"kinds=basic", "kinds=mb"} < named


def test_only_what_is_cheap_and_well_known_is_suggested(pool: list[Candidate]) -> None:
    assert [v.choice for v in suggestions(judge(pool, EVERYTHING))] == ["kernels=5"]
    more = [*pool, *(scored(arch(depth=2), 7.0, 25.0, 2.0) for _ in range(9))]
    assert [v.choice for v in suggestions(judge(more, EVERYTHING))] == ["kernels=5", "depths=2"]


def test_suggestions_are_cheap_together_as_well() -> None:
    front = [
        scored(arch(depth={2: 2, 5: 3}.get(i, 1)), 10.0 + i, 1.0 + i)
        for i in range(30)  # depths 2 and 3 lose a thirtieth each
    ]
    behind = [scored(arch(depth=d), 5.0 + d, 50.0, 2.0) for d in (2, 3) for _ in range(10)]
    pool = [*front, *behind]
    suggested = suggestions(judge(pool, EVERYTHING))
    assert [v.choice for v in suggested] == ["depths=2", "depths=3"]
    limits = narrow(pool, EVERYTHING, suggested)
    assert limits == parse_restriction("depths=1,3,4")
    assert lost(pool, limits) == (pytest.approx(1 / 30), 0)


def test_the_document_tells_what_to_write_to_the_profile(pool: list[Candidate]) -> None:
    line = parse_restriction("kinds=basic,mb")
    restrictions = [line, parse_restriction("kernels=3", line)]
    samples = [Sample(limits, share, {}) for limits, share in zip(restrictions, (0.25, 0.5), strict=True)]
    found = document(samples, [pool, pool[:20]], pool, line)
    assert [row["restriction"] for row in found["restrictions"]] == ["all", "kernels=3"]
    assert [row["n"] for row in found["restrictions"]] == [39, 20]
    assert [row["front_lost"] for row in found["restrictions"]] == [0, 0]
    assert found["restrictions"][1]["scores"] == [10.0 + i for i in range(20)]
    assert found["restrictions"][1]["quantiles"] == pytest.approx({"10": 11.9, "50": 19.5, "90": 27.1})
    assert found["better"] == "B"
    assert found["front"] == 20
    assert found["toml"] == '[space]\nkinds = ["basic", "mb"]\nkernels = [3]\n'
    assert document(samples, [pool[:20]] * 2, pool[:20], line)["toml"] == ""


def compared(folder: Path, pricing: Pricing, data: Dataset, workers: int, *texts: str, seed: int = 0) -> dict[str, Any]:
    folder.mkdir()
    ticks: list[int] = []

    @contextmanager
    def ticker(number: int) -> Iterator[Callable[[], None]]:
        yield lambda: ticks.append(number)

    settings = SearchSettings(repeats=1, seed=seed)
    alternatives = [parse_restriction(text, pricing.space) for text in texts]
    with engine("processes", workers, None) as machine:
        norm = standard(data.train.images)
        compare(settings, pricing, MACS, alternatives, data.train, norm, machine, folder, ticker)
    assert set(ticks) == {len(ticks)}
    found: dict[str, Any] = json.loads((folder / "compare.json").read_text())
    return found


@pytest.mark.usefixtures("_few")
def test_a_comparison_is_what_its_ranking_says_of_its_samples_on_any_engine(
    tmp_path: Path, pricing_of: PricingOf, data_of: Callable[..., Dataset]
) -> None:
    texts = ("kernels=5+kinds=mb", "kernels=3+kinds=mb")
    pricing, data = pricing_of(), data_of(side=16)
    found = compared(tmp_path / "1", pricing, data, 1, *texts)
    for text, row in zip(texts, found["restrictions"], strict=True):
        networks = sample(pricing, parse_restriction(text), 0).networks
        macs = sorted(count(plan(parse(genome), pricing.picture, 2)).macs for genome in networks)
        assert row["scores"] == pytest.approx(macs)
        assert row["quantiles"]["50"] == pytest.approx(np.median(macs))
    assert {row["choice"].split("=")[0] for row in found["choices"]} == {"kernels", "depths", "widths", "stem_strides"}
    drawn = ElementTree.fromstring((tmp_path / "1" / "compare.svg").read_text())
    words = " ".join(text.strip() for text in drawn.itertext())
    assert f"A: kinds=mb+kernels=5 ({FEW} networks)" in words
    assert f"B: kinds=mb+kernels=3 ({FEW} networks)" in words
    compared(tmp_path / "2", pricing, data, 2, *texts)
    for name in ("compare.json", "compare.svg"):
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


@pytest.mark.usefixtures("_few")
def test_a_restriction_far_below_the_budgets_is_refused_by_name(
    tmp_path: Path, pricing_of: PricingOf, data_of: Callable[..., Dataset]
) -> None:
    wide = pricing_of(latency_ms=50.0, size_mb=50.0)
    with pytest.raises(GateError, match=r"restriction 'depths=1\+widths=8': expected 20 .*found 0, while 100\.0% keep"):
        compared(tmp_path / "a", wide, data_of(side=16), 1, "depths=1+widths=8", "all")
