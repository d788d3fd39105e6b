"""A candidate: a genome, what it costs, what it scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from factory.cost.count import Cost, count
from factory.cost.latency import LatencyModel
from factory.profiles import BudgetLimits, SpaceLimits
from factory.score.ranking import Features, Ranking
from factory.score.swap import SwapScore
from factory.search.pareto import front
from factory.spaces.deployable import Deployable
from factory.spaces.plan import Input
from factory.spaces.residual import Genome, parse, plan
from factory.spaces.restriction import EVERYTHING, allows


@dataclass(frozen=True, slots=True)
class Costs:
    """Cheap figures of a genome: what is counted, the predicted latency in ms and the upper bound of its interval."""

    counted: Cost
    latency_ms: float
    latency_upper_ms: float

    @property
    def params(self) -> int:
        """Parameters."""
        return self.counted.params

    @property
    def size_mb(self) -> float:
        """Upper bound of the file's size in 10^6 bytes."""
        return self.counted.size_mb

    @property
    def macs(self) -> int:
        """Multiply-adds of one image."""
        return self.counted.macs


@dataclass(frozen=True, slots=True)
class Candidate:
    """An evaluated genome; `swap` and `score` are 0 for a degenerate network, which is never chosen.

    `latency_ms` is predicted, `measured_ms` the measured median, None where there is none.
    """

    genome: str
    params: int
    size_mb: float
    macs: int
    latency_ms: float
    swap: float
    saturation: float
    score: float
    measured_ms: float | None = None

    @property
    def known_ms(self) -> float:
        """Latency as well as it is known: measured, else predicted."""
        return self.latency_ms if self.measured_ms is None else self.measured_ms


class Pricing:
    """Costs of any genome of a line, whether they keep its budgets, and what the line allows of the space."""

    def __init__(
        self,
        picture: Input,
        classes: int,
        limits: BudgetLimits,
        latency: LatencyModel,
        space: SpaceLimits = EVERYTHING,
    ) -> None:
        self.picture, self.classes, self.limits, self._latency = picture, classes, limits, latency
        self.space = space
        self._known: dict[Genome, Costs] = {}  # the search asks for the same networks in every generation

    @property
    def networks(self) -> Deployable:
        """The space that the line's networks are of."""
        return Deployable(self.picture, self.classes, limits=self.space)

    def costs(self, genome: Genome) -> Costs:
        """Count and predict."""
        if genome not in self._known:
            network = plan(genome, self.picture, self.classes)
            latency = self._latency.estimate(network)
            self._known[genome] = Costs(count(network), latency.ms, latency.high)
        return self._known[genome]

    def relearned(self, latency: LatencyModel) -> "Pricing":
        """The same line priced by another model of its device."""
        return Pricing(self.picture, self.classes, self.limits, latency, self.space)

    def keeps(self, costs: Costs, measured_ms: float | None = None) -> bool:
        """Whether both hard budgets hold, latency as measured, else by the upper bound of its interval."""
        ms = costs.latency_upper_ms if measured_ms is None else measured_ms
        return costs.size_mb <= self.limits.size_mb and ms <= self.limits.latency_ms

    def admit(self, arch: str) -> Costs | None:
        """Costs of a genome that the line's space allows and that keeps the budgets, else None."""
        genome = parse(arch)
        if not allows(self.space, genome):
            return None
        costs = self.costs(genome)
        return costs if self.keeps(costs) else None


def features(costs: Costs, swap: float) -> Features:
    """What a ranking reads; `swap` is SWAP-Score."""
    c = costs.counted
    return Features(
        c.params, c.macs, c.late_macs, c.positions, c.narrowest, c.convolutions, c.width, costs.latency_ms, swap
    )


def candidate(genome: str, costs: Costs, swap: SwapScore | None, ranking: Ranking) -> Candidate:
    """Join costs and score; a degenerate network scores 0."""
    return Candidate(
        genome,
        costs.params,
        costs.size_mb,
        costs.macs,
        costs.latency_ms,
        swap.swap if swap else 0.0,
        swap.saturation if swap else 0.0,
        ranking(features(costs, swap.swap)) if swap else 0.0,
    )


def standing(
    told: Sequence[Candidate], pricing: Pricing, measured: Mapping[str, float], ranking: Ranking
) -> list[Candidate]:
    """Those that keep the budgets by what is known now, with latencies and scores as they are by it.

    A measured latency decides, else the upper bound of the interval. SWAP-Score is never computed again.

    Args:
        told: candidates.
        pricing: with the model as it is now.
        measured: medians in ms by genome.
        ranking: from costs and SWAP-Score to the score.
    """
    kept = []
    for item in told:
        costs, ms = pricing.costs(parse(item.genome)), measured.get(item.genome)
        if pricing.keeps(costs, ms):
            score = ranking(features(costs, item.swap)) if item.swap > 0 else 0.0
            kept.append(replace(item, latency_ms=costs.latency_ms, measured_ms=ms, score=score))
    return kept


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best score first; equal scores by genome, so that the order never depends on how it was computed."""
    return sorted(candidates, key=lambda c: (-c.score, c.genome))


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats in score, latency and size at once, by latency."""
    valid = [c for c in candidates if c.swap > 0]
    costs = np.array([(-c.score, c.known_ms, c.size_mb) for c in valid])
    return sorted((valid[i] for i in front(costs)), key=lambda c: (c.known_ms, c.genome)) if valid else []
