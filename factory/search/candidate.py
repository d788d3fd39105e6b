"""A candidate: a genome, what it costs, what it scores."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    """Cheap figures of a genome: what is counted, the predicted latency in ms and its upper bound."""

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
    """An evaluated genome; `swap` and `score` are 0 for a degenerate network, which is never chosen."""

    genome: str
    params: int
    size_mb: float
    macs: int
    latency_ms: float
    swap: float
    saturation: float
    score: float


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

    @property
    def networks(self) -> Deployable:
        """The space that the line's networks are of."""
        return Deployable(self.picture, self.classes, limits=self.space)

    def costs(self, genome: Genome) -> Costs:
        """Count and predict."""
        network = plan(genome, self.picture, self.classes)
        latency = self._latency.predict(network)
        return Costs(count(network), latency, latency * (1 + self._latency.margin))

    def keeps(self, costs: Costs) -> bool:
        """Whether both hard budgets hold, latency with its margin."""
        return costs.size_mb <= self.limits.size_mb and costs.latency_upper_ms <= self.limits.latency_ms

    def admit(self, arch: str) -> Costs | None:
        """Costs of a genome that the line's space allows and that keeps the budgets, else None."""
        genome = parse(arch)
        if not allows(self.space, genome):
            return None
        costs = self.costs(genome)
        return costs if self.keeps(costs) else None


def features(costs: Costs, swap: SwapScore) -> Features:
    """What a ranking reads."""
    c = costs.counted
    return Features(
        c.params, c.macs, c.late_macs, c.positions, c.narrowest, c.convolutions, c.width, costs.latency_ms, swap.swap
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
        ranking(features(costs, swap)) if swap else 0.0,
    )


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best score first; equal scores by genome, so that the order never depends on how it was computed."""
    return sorted(candidates, key=lambda c: (-c.score, c.genome))


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats in score, latency and size at once, by latency."""
    valid = [c for c in candidates if c.swap > 0]
    costs = np.array([(-c.score, c.latency_ms, c.size_mb) for c in valid])
    return sorted((valid[i] for i in front(costs)), key=lambda c: (c.latency_ms, c.genome)) if valid else []
