"""A candidate: a genome, what it costs, what it scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from factory.cost.count import count
from factory.cost.latency import LatencyModel
from factory.profiles import BudgetLimits
from factory.score.swap import SizeRegulariser, SwapScore
from factory.search.pareto import front
from factory.spaces.plan import Input
from factory.spaces.residual import Genome, plan


@dataclass(frozen=True, slots=True)
class Costs:
    """Cheap figures of a genome: parameters, MB of the file, MACs, predicted latency in ms and its upper bound."""

    params: int
    size_mb: float
    macs: int
    latency_ms: float
    latency_upper_ms: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """An evaluated genome; `swap` is 0 for a degenerate network, which is never chosen."""

    genome: str
    params: int
    size_mb: float
    macs: int
    latency_ms: float
    swap: float
    saturation: float
    score: float


class Pricing:
    """Costs of any genome of a line, and whether they keep its budgets."""

    def __init__(self, picture: Input, classes: int, limits: BudgetLimits, latency: LatencyModel) -> None:
        self.picture, self.classes, self.limits, self._latency = picture, classes, limits, latency

    def costs(self, genome: Genome) -> Costs:
        """Count and predict."""
        network = plan(genome, self.picture, self.classes)
        cost = count(network)
        latency = self._latency.predict(network)
        return Costs(cost.params, cost.size_mb, cost.macs, latency, latency * (1 + self._latency.margin))

    def keeps(self, costs: Costs) -> bool:
        """Whether both hard budgets hold, latency with its margin."""
        return costs.size_mb <= self.limits.size_mb and costs.latency_upper_ms <= self.limits.latency_ms


def candidate(genome: Genome, costs: Costs, swap: SwapScore | None, regulariser: SizeRegulariser) -> Candidate:
    """Join costs and score; a degenerate network scores 0."""
    raw = swap.swap if swap else 0.0
    return Candidate(
        str(genome),
        costs.params,
        costs.size_mb,
        costs.macs,
        costs.latency_ms,
        raw,
        swap.saturation if swap else 0.0,
        raw * regulariser.factor(costs.params),
    )


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best score first; equal scores by genome, so that the order never depends on how it was computed."""
    return sorted(candidates, key=lambda c: (-c.score, c.genome))


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats in score, latency and size at once, by latency."""
    valid = [c for c in candidates if c.swap > 0]
    costs = np.array([(-c.score, c.latency_ms, c.size_mb) for c in valid])
    return sorted((valid[i] for i in front(costs)), key=lambda c: (c.latency_ms, c.genome)) if valid else []
