from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from export.runtime.errors import EnvironmentLacks
from factory.cost.away import Unmeasured
from factory.cost.book import Confirmed
from factory.cost.latency import LatencyModel
from factory.cost.table import Table
from factory.score.ranking import PowerLaw
from factory.search.candidate import Candidate, Pricing, candidate, ranked
from factory.search.nominate import common, diverse, near_plain, nominate, reference
from factory.search.target import Target
from factory.spaces.plan import Plan
from factory.spaces.residual import parse, plain_genomes, plan, random_genome
from tests.factory.search.conftest import PICTURE, known_law

PricingOf = Callable[..., Pricing]
A = "stem_w8_s1-basic_w8_d1_k3_e1_s1-basic_w16_d1_k3_e1_s2"
SAME = "stem_w16_s1-basic_w24_d2_k5_e2_s1-basic_w32_d1_k3_e1_s2"
STEM = "stem_w8_s2-basic_w8_d1_k3_e1_s1-basic_w16_d1_k3_e1_s2"
LONGER = "stem_w8_s1-basic_w8_d1_k3_e1_s1-basic_w16_d1_k3_e1_s2-basic_w16_d1_k3_e1_s1"
KINDS = "stem_w8_s1-mb_w8_d1_k5_e2_s1-basic_w16_d1_k3_e1_s2"
MACS = PowerLaw((("macs", 1.0),), "macs")
TABLE = Table(PICTURE, 2, {}, LatencyModel(known_law()))


@dataclass
class ToldBook:
    """Timings as they are told, a default for the rest; refuses as a station that has yet to measure."""

    told: Mapping[str, float] = field(default_factory=dict)
    otherwise: float = 0.1
    away: bool = False
    doubt: float = 0.0
    asked: list[int] = field(default_factory=list)
    confirmed: list[Plan] = field(default_factory=list)

    def measure(self, plans: Sequence[Plan], tick: Callable[[], None]) -> list[float]:
        """Answer from what was told."""
        self.asked.append(len(plans))
        if self.away:
            raise Unmeasured(f"{len(plans)} networks have not been measured", fix="walk")
        return [self._ms(p) for p in plans]

    def confirm(self, plans: Sequence[Plan]) -> list[Confirmed]:
        """Answer what was told, and `doubt` more at most."""
        self.confirmed += plans
        return [Confirmed(self._ms(p), self._ms(p) + self.doubt) for p in plans]

    def _ms(self, network: Plan) -> float:
        known = {plan(parse(genome), PICTURE, 2): ms for genome, ms in self.told.items()}
        return known.get(network, self.otherwise)


def made(genome: str, score: float, swap: float = 1.0) -> Candidate:
    return Candidate(genome, 10, 0.01, 10, 0.1, swap, 0.5, score)


def station(pricing: Pricing, book: ToldBook, device: str = "bench") -> Target:
    limits = pricing.limits.model_copy(update={"device": device})
    return Target(Pricing(PICTURE, 2, limits, LatencyModel(known_law())), TABLE, book, MACS)


def test_the_best_of_each_kind_of_network_are_taken() -> None:
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


def test_the_reference_is_the_largest_plain_network_that_fits_when_measured(pricing_of: PricingOf) -> None:
    pricing, rng = pricing_of(latency_ms=0.3, size_mb=0.3), np.random.default_rng(0)
    plain = plain_genomes(pricing.picture)
    costs = [pricing.costs(genome) for genome in plain]
    measured = {str(g): c.latency_ms * float(rng.uniform(0.7, 1.3)) for g, c in zip(plain, costs, strict=True)}
    fitting = {
        str(g): c.macs for g, c in zip(plain, costs, strict=True) if c.size_mb <= 0.3 and measured[str(g)] <= 0.3
    }
    book = ToldBook(measured)
    chosen = reference(station(pricing, book))
    assert 1 < len(fitting) < len(plain)
    assert chosen is not None and fitting[chosen] == max(fitting.values())
    assert book.asked == [len(near_plain(pricing))]


def test_there_is_no_reference_where_no_plain_network_fits(pricing_of: PricingOf) -> None:
    assert reference(station(pricing_of(size_mb=1e-5), ToldBook())) is None
    assert reference(station(pricing_of(), ToldBook(otherwise=0.31))) is None


def test_those_that_measure_above_the_budget_are_passed_over(pricing_of: PricingOf) -> None:
    found = {"bench": [made(A, 9), made(STEM, 8), made(KINDS, 7)]}
    target = station(pricing_of(latency_ms=0.3), ToldBook({A: 0.31, STEM: 0.3, KINDS: 0.1}))
    assert [c.genome for c in nominate(found, 2, [target]).candidates] == [STEM, KINDS]
    assert [c.genome for c in nominate(found, 1, [target]).candidates] == [STEM]


def test_one_that_may_miss_the_budget_when_it_is_measured_thoroughly_is_not_trained(pricing_of: PricingOf) -> None:
    found = {"bench": [made(A, 9), made(STEM, 8), made(LONGER, 7), made(KINDS, 6)]}
    book = ToldBook({A: 0.31, STEM: 0.295, LONGER: 0.28, KINDS: 0.1}, otherwise=0.5, doubt=0.01)
    assert [c.genome for c in nominate(found, 1, [station(pricing_of(latency_ms=0.3), book)]).candidates] == [LONGER]
    assert book.confirmed == [plan(parse(genome), PICTURE, 2) for genome in (STEM, LONGER)]  # and no more than needed


def test_networks_for_all_are_those_that_stand_everywhere_the_least_bad_place_first() -> None:
    here = [made(A, 9), made(STEM, 8), made(LONGER, 7), made(KINDS, 6)]
    there = [made(KINDS, 9), made(LONGER, 8), made(STEM, 7)]
    assert [c.genome for c in common({"a": here, "b": there})] == [LONGER, STEM, KINDS]
    assert common({"a": here, "b": []}) == []


def test_two_kinds_of_station_get_their_best_and_what_keeps_the_budgets_of_both(pricing_of: PricingOf) -> None:
    found = {"a": [made(A, 9), made(STEM, 8), made(KINDS, 6)], "b": [made(KINDS, 9), made(STEM, 7)]}
    roomy = station(pricing_of(latency_ms=0.3), ToldBook({A: 0.29, STEM: 0.2, KINDS: 0.31}), "a")
    tight = station(pricing_of(latency_ms=0.2), ToldBook({A: 0.4, STEM: 0.2, KINDS: 0.1}), "b")
    nominated = nominate(found, 1, [roomy, tight])
    assert [c.genome for c in nominated.candidates] == [A, KINDS, STEM]
    assert set(nominated.references) == {"a", "b"}
    on_a, on_b = nominated.tried
    assert [on_a.keeps(g) for g in (A, STEM, KINDS)] == [True, True, False]
    assert [on_b.keeps(g) for g in (A, STEM, KINDS)] == [False, True, True]
    (known,) = on_a.standing([candidate(STEM, roomy.pricing.costs(parse(STEM)), None, MACS)])
    assert known.measured_ms == 0.2


def test_every_station_is_asked_for_everything_in_one_walk(pricing_of: PricingOf) -> None:
    found = {name: [made(A, 9), made(STEM, 8)] for name in ("a", "b", "c")}
    books = [ToldBook(away=True), ToldBook(), ToldBook(away=True)]
    targets = [station(pricing_of(), book, name) for book, name in zip(books, found, strict=True)]
    with pytest.raises(
        EnvironmentLacks, match=r"not been measured and \d+ networks have not been measured.*walk\nwalk"
    ):
        nominate(found, 1, targets)
    assert [len(book.asked) for book in books] == [1, 1, 1]
    assert len({book.asked[0] for book in books}) == 1
