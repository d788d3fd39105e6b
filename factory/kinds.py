"""Which network each kind of station of a line gets, and what one for all of them would cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factory.profiles import LineProfile
from factory.search.shortlist import Entry


@dataclass(frozen=True, slots=True)
class Served:
    """One kind of station: its best network of the shortlist, and the best of those that keep all kinds' budgets.

    `shared` is None where no network of the shortlist keeps all of them.
    """

    device: str
    budget_ms: float
    own: Entry
    shared: Entry | None

    @property
    def points(self) -> float | None:
        """Balanced accuracy that the shared network costs here, in points; below 0 where it has more."""
        if self.shared is None:
            return None
        return 100 * (self.own.val_balanced_accuracy - self.shared.val_balanced_accuracy)

    @property
    def loss(self) -> float | None:
        """Validation loss that the shared network costs here."""
        return None if self.shared is None else self.shared.val_loss - self.own.val_loss

    def as_json(self) -> dict[str, Any]:
        """A row of `factory run --json`."""

        def told(entry: Entry | None) -> dict[str, Any] | None:
            return (
                None
                if entry is None
                else {
                    "genome": entry.candidate.genome,
                    "latency_ms": entry.latency_ms,
                    "balanced_accuracy": entry.val_balanced_accuracy,
                    "val_loss": entry.val_loss,
                }
            )

        return {
            "device": self.device,
            "latency_budget_ms": self.budget_ms,
            "own": told(self.own),
            "one_for_all": told(self.shared),
        }


def serve(line: LineProfile, shortlists: Mapping[str, Sequence[Entry]]) -> list[Served]:
    """What every kind of station gets; nothing on a line that has one kind.

    Args:
        line: for the budgets.
        shortlists: of every device, the best first; a network trained for one kind is weighed for all.
    """
    if not line.stations:
        return []
    return [
        Served(
            limits.device,
            limits.latency_ms,
            shortlists[limits.device][0],
            next((entry for entry in shortlists[limits.device] if entry.everywhere), None),
        )
        for limits in (line.budget, *line.stations)
    ]


def verdict(kinds: Sequence[Served]) -> str:
    """The choice in one sentence."""
    shared = kinds[0].shared
    if shared is None:
        return "No network of the shortlist keeps the budgets of all kinds of station."
    if all(kind.own.candidate.genome == shared.candidate.genome for kind in kinds):
        return "The same network is the best for every kind of station."
    costs = [
        f"nothing on {kind.device}"
        if kind.own.candidate.genome == shared.candidate.genome
        else f"{kind.points:.1f} points of balanced accuracy and {kind.loss:.3f} of loss on {kind.device}"
        for kind in kinds
    ]
    return f"One network for all, {shared.candidate.genome}, would cost {', '.join(costs)}, by the short trainings."
