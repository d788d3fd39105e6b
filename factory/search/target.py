"""What networks are sought for: one kind of station with its budgets, its latencies and its ranking."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from factory.cost.away import Unmeasured
from factory.cost.table import Table, Timings
from factory.score.ranking import Ranking
from factory.search.candidate import Candidate, Pricing, standing

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of station; `pricing` has the model of `table`, whose networks were timed by `book`."""

    pricing: Pricing
    table: Table
    book: Timings
    ranking: Ranking

    @property
    def device(self) -> str:
        """Name of the device profile."""
        return self.pricing.limits.device

    def as_json(self) -> dict[str, Any]:
        """What a search for it depends on."""
        limits = self.pricing.limits.model_dump(mode="json", exclude={"rhythm_ms"})
        return {"budget": limits, "latency": self.table.as_json(), "ranking": self.ranking.as_json()}

    def standing(self, told: Sequence[Candidate]) -> list[Candidate]:
        """Those that keep the budgets here by what is known now, with latency and score as they are here."""
        return standing(told, self.pricing, self.table.measured, self.ranking)

    def knowing(self, table: Table) -> "Target":
        """The same kind of station with more networks measured."""
        return replace(self, pricing=self.pricing.relearned(table.model), table=table)


def ask_all(several: Sequence[S], ask: Callable[[S], T]) -> list[T]:
    """What each kind of station answers.

    Raises:
        Unmeasured: once for all whose stations have yet to measure something.
    """
    answers, lacking = [], list[Unmeasured]()
    for one in several:
        try:
            answers.append(ask(one))
        except Unmeasured as refusal:  # remembered there: all stations are to be asked before someone walks to one
            lacking.append(refusal)
    if lacking:
        raise Unmeasured.of(lacking)
    return answers
