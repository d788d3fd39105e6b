"""Evolution by ask and tell: budgets first, then the regularised score.

Every candidate keeps the hard budgets before it is scored. Parents win a tournament among the best so far; children
are a crossover, a mutation, or now and then a fresh random genome.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from export.runtime.errors import GateError
from factory.profiles import SearchSettings
from factory.score.swap import SizeRegulariser
from factory.search.candidate import Candidate, Costs, Pricing, candidate, ranked
from factory.search.pool import Pool
from factory.search.space import smallest_genomes
from factory.search.state import SearchState
from factory.spaces.residual import Genome, crossover, mutate, parse, random_genome

TOURNAMENT = 3
FRESH = 0.1  # share of children that are random genomes
CROSSED = 0.3  # chance that a child has two parents
TRIES = 20_000  # random genomes looked at for the first that keep the budgets
FEW = 50  # and for one more, once there are parents


@dataclass(frozen=True, slots=True)
class Asked:
    """A genome that keeps the budgets and was not seen before."""

    genome: Genome
    costs: Costs


def _feasible(draw: Callable[[], Genome], pricing: Pricing, seen: set[str], tries: int) -> Asked | None:
    for _ in range(tries):
        genome = draw()
        if str(genome) in seen:
            continue
        costs = pricing.costs(genome)
        if pricing.keeps(costs):
            return Asked(genome, costs)
    return None


def _child(parents: Sequence[Candidate], pricing: Pricing, rng: np.random.Generator) -> Genome:
    def winner() -> Genome:
        best = min(int(i) for i in rng.integers(len(parents), size=TOURNAMENT))
        return parse(parents[best].genome)

    genome = winner()
    if rng.random() < CROSSED:
        genome = crossover(genome, winner(), rng, pricing.picture)
    return mutate(genome, rng, pricing.picture)


def ask(
    told: Sequence[Candidate], number: int, pricing: Pricing, population: int, rng: np.random.Generator
) -> list[Asked]:
    """Return up to `number` new genomes that keep the budgets; fewer only if the space has no more to give.

    Raises:
        GateError: if no genome that keeps the budgets was found at all.
    """
    seen = {c.genome for c in told}
    parents = ranked(told)[:population]
    asked: list[Asked] = []
    for _ in range(number):
        new = None
        if not parents or rng.random() < FRESH:
            tries = FEW if parents else TRIES
            new = _feasible(lambda: random_genome(rng, pricing.picture), pricing, seen, tries)
        if new is None and parents:
            new = _feasible(lambda: _child(parents, pricing, rng), pricing, seen, FEW)
        if new is not None:
            asked.append(new)
            seen.add(str(new.genome))
        elif not parents:
            break  # the budgets are so tight that drawing is no way: go on from what there is
    if not asked and not told:  # not one in so many: begin with the least networks there are
        priced = [Asked(genome, pricing.costs(genome)) for genome in smallest_genomes(pricing)]
        asked = [new for new in priced if pricing.keeps(new.costs)][:number]
    if not asked and not told:
        raise GateError("no network of the space keeps the budgets", fix="`factory space` says what can be reached")
    return asked


def evolve(
    settings: SearchSettings,
    pricing: Pricing,
    regulariser: SizeRegulariser,
    pool: Pool,
    state: SearchState,
    tick: Callable[[int], None],
) -> list[Candidate]:
    """Search until `settings.candidates` are scored, going on from what `state` holds; return all of them.

    `tick` is called with the number of candidates so far.
    """
    rng = np.random.default_rng(settings.seed)
    generation, told = state.restore(rng)
    while len(told) < settings.candidates:
        tick(len(told))
        number = min(settings.population, settings.candidates - len(told))
        asked = ask(told, number, pricing, settings.population, rng)
        if not asked:
            break
        new = []
        for item, swap in zip(asked, pool.map([str(item.genome) for item in asked]), strict=True):
            new.append(candidate(item.genome, item.costs, swap, regulariser))
            tick(len(told) + len(new))
        state.tell(generation, new, rng)
        told, generation = told + new, generation + 1
    tick(len(told))
    return told
