"""Which networks are trained briefly: the best of different kinds for each target, for all together, plain references.

All that may be needed is measured at once, on every target: a station may have to be walked to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from factory.cost.book import Confirmed
from factory.search.candidate import Candidate, Pricing, standing
from factory.search.target import Target, ask_all
from factory.spaces.residual import parse, plain_genomes

NEAR: Final = 1.5  # a plain network predicted to be this much slower than the budget is not worth measuring
SPARE: Final = 3  # times as many are measured as are wanted: some will be too slow


def family(genome: str) -> tuple[int, tuple[str, ...]]:
    """What makes two networks alike to the score: the stride of the stem and the kinds of block in order."""
    parsed = parse(genome)
    return parsed.stem_stride, tuple(stage.kind for stage in parsed.stages)


def diverse(candidates: Sequence[Candidate], number: int) -> list[Candidate]:
    """The best by score of each family, the best families first: real training then decides between kinds."""
    taken: dict[tuple[int, tuple[str, ...]], Candidate] = {}
    for item in candidates:
        if item.swap > 0 and len(taken) < number:
            taken.setdefault(family(item.genome), item)
    return list(taken.values())


def common(found: Mapping[str, Sequence[Candidate]]) -> list[Candidate]:
    """Candidates that stand on every device, those first whose worst place among the ranked of a device is best.

    Args:
        found: by device, best first.
    """
    first, *_ = found.values()
    places = [{c.genome: place for place, c in enumerate(own)} for own in found.values()]
    shared = [c for c in first if all(c.genome in own for own in places)]
    return sorted(shared, key=lambda c: (max(own[c.genome] for own in places), c.genome))


def near_plain(pricing: Pricing) -> list[str]:
    """Plain residual networks within the budget of size that may keep that of latency, most MACs first."""
    limits = pricing.limits
    priced = [(pricing.costs(genome), str(genome)) for genome in plain_genomes(pricing.picture)]
    near = [
        (costs.macs, genome)
        for costs, genome in priced
        if costs.size_mb <= limits.size_mb and costs.latency_ms <= NEAR * limits.latency_ms
    ]
    return [genome for _, genome in sorted(near, reverse=True)]


@dataclass(frozen=True, slots=True)
class Tried:
    """What was measured briefly on one target, in ms by genome."""

    target: Target
    timed: Mapping[str, float]

    def keeps(self, genome: str) -> bool:
        """Whether a network keeps the budgets, also when measured thoroughly: its training must not be in vain."""
        pricing = self.target.pricing
        costs = pricing.costs(parse(genome))
        return pricing.keeps(costs, self.timed[genome]) and pricing.keeps(costs, self._confirmed(genome).high_ms)

    def standing(self, told: Sequence[Candidate]) -> list[Candidate]:
        """Those that keep the budgets, as they are here."""
        kept = [c for c in told if self.keeps(c.genome)]
        known = {c.genome: self._confirmed(c.genome).ms for c in kept}
        return standing(kept, self.target.pricing, known, self.target.ranking)

    def _confirmed(self, genome: str) -> Confirmed:
        (found,) = self.target.book.confirm([self.target.table.plan(genome)])
        return found


def reference(target: Target) -> str | None:
    """The plain residual network with most MACs that keeps both budgets when measured, or None if none does."""
    near = near_plain(target.pricing)
    (tried,) = _try(near, [target])
    return next(filter(tried.keeps, near), None)


def _try(genomes: Sequence[str], targets: Sequence[Target]) -> list[Tried]:
    def ask(target: Target) -> Tried:
        timed = target.book.measure([target.table.plan(g) for g in genomes], lambda: None) if genomes else []
        return Tried(target, dict(zip(genomes, timed, strict=True)))

    return ask_all(targets, ask)


def _first(number: int, candidates: Sequence[Candidate], tried: Sequence[Tried]) -> list[Candidate]:
    """The first that keep the budgets everywhere, and no more looked at than that takes."""
    return list(islice((c for c in candidates if all(one.keeps(c.genome) for one in tried)), number))


@dataclass(frozen=True, slots=True)
class Nominated:
    """The networks to train: `candidates` of the search, the plain one of each device that has any; all measured."""

    candidates: list[Candidate]
    references: dict[str, str]
    tried: list[Tried]


def nominate(found: Mapping[str, Sequence[Candidate]], number: int, targets: Sequence[Target]) -> Nominated:
    """Choose up to `number` for each target, and for all of them together where there are several.

    Args:
        found: what the search left, by device, best first.
        number: wanted.
        targets: the kinds of station.

    Raises:
        Unmeasured: if the station of a target has yet to measure some of them.
    """
    best = {target.device: diverse(found[target.device], SPARE * number) for target in targets}
    shared = diverse(common(found), SPARE * number) if len(targets) > 1 else []
    plain = {target.device: near_plain(target.pricing) for target in targets}
    every = [*best.values(), shared]
    asked = [c.genome for own in every for c in own] + [genome for own in plain.values() for genome in own]
    tried = _try(list(dict.fromkeys(asked)), targets)
    chosen = [c for one in tried for c in _first(number, best[one.target.device], [one])]
    chosen += _first(number, shared, tried)
    references = {one.target.device: next(filter(one.keeps, plain[one.target.device]), None) for one in tried}
    return Nominated(
        list({c.genome: c for c in chosen}.values()),
        {device: genome for device, genome in references.items() if genome is not None},
        tried,
    )
