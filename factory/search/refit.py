"""The front of a search measured for real: what the law of latency learns from it, and whether its bound held."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from factory.search.candidate import Candidate, pareto
from factory.search.target import Target
from factory.spaces.residual import parse

# After these shares of the candidates the front is measured and the law refitted; the last round only measures what
# rose to the front by the refit before it.
SHARES: Final = (0.6, 0.8, 1.0, 1.0)
WALKED: Final = (1.0,)  # of a station that is walked to: one walk; what the shortlist needs is measured by another
MOST: Final = 40  # networks measured in one round


@dataclass(frozen=True, slots=True)
class Round:
    """What one round measured: how many, those above the bound they were admitted under, those above the budget.

    `median_error` is that of the law before it saw them.
    """

    measured: int
    above_bound: int
    over_budget: int
    median_error: float


def measure_front(told: Sequence[Candidate], target: Target) -> tuple[Target, Round]:
    """Measure those of a target's front that never were, in one call, the best `MOST` by score; refit its model.

    Args:
        told: all candidates so far.
        target: as it is known now.

    Raises:
        Unmeasured: if its station has yet to measure some of them.
    """
    pricing, table = target.pricing, target.table
    front = pareto(target.standing(told))
    new = sorted((c for c in front if c.measured_ms is None), key=lambda c: (-c.score, c.genome))[:MOST]
    if not new:
        return target, Round(0, 0, 0, 0.0)
    costs = [pricing.costs(parse(c.genome)) for c in new]
    measured = target.book.measure([table.plan(c.genome) for c in new], lambda: None)
    pairs = list(zip(costs, measured, strict=True))
    done = Round(
        len(new),
        sum(ms > c.latency_upper_ms for c, ms in pairs),
        sum(ms > pricing.limits.latency_ms for ms in measured),
        float(np.median([abs(c.latency_ms / ms - 1) for c, ms in pairs])),
    )
    return target.knowing(table.with_measured({c.genome: ms for c, ms in zip(new, measured, strict=True)})), done


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of the predictions of a search.

    Attributes:
        level: one-sided level of the bound that was held against the budget.
        rounds: in their order.
        settled: whether all of the front was measured in the end; if not, the rounds ran out.
        median_error: of the last law, of networks left out of its fit.
    """

    level: float
    rounds: tuple[Round, ...]
    settled: bool
    median_error: float

    @property
    def measured(self) -> int:
        """Networks measured by the search, beside those of the table."""
        return sum(r.measured for r in self.rounds)

    @property
    def above_bound(self) -> int:
        """Those of them that were slower than their bound."""
        return sum(r.above_bound for r in self.rounds)

    @property
    def over_budget(self) -> int:
        """Those of them that broke the budget, and were left out."""
        return sum(r.over_budget for r in self.rounds)

    def __str__(self) -> str:
        rounds = sum(r.measured > 0 for r in self.rounds)
        open_end = "" if self.settled else "; the rounds ran out before all of the front was measured"
        return (
            f"{self.measured} networks of the front were measured in {rounds} rounds, each followed by a refit: "
            f"{self.above_bound} were above their {self.level:.0%} bound, {self.over_budget} above the budget and left "
            f"out; median error of the last fit {self.median_error:.1%}{open_end}"
        )

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Proof":
        """Read what `dataclasses.asdict` wrote."""
        return cls(**(document | {"rounds": tuple(Round(**row) for row in document["rounds"])}))
