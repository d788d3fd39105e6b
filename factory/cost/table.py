"""The latency table of a line on its device: the networks that were measured, and the model fitted to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from factory.cost.book import Confirmed, LatencyBook
from factory.cost.design import design
from factory.cost.latency import LatencyModel, Law, fit_law, terms_of
from factory.cost.transfer import fit_latency
from factory.profiles import BudgetLimits, SpaceLimits
from factory.spaces.plan import Input, Plan
from factory.spaces.residual import parse, plan
from factory.spaces.restriction import EVERYTHING
from factory.workspace import read_json, write_json

MEASURED: Final = 40
TAUGHT: Final = 20  # and on a device that others teach


class Timings(Protocol):
    """What measures: a `LatencyBook`."""

    @property
    def away(self) -> bool:
        """Whether someone has to walk to the station for what was never measured."""

    def measure(self, plans: Sequence[Plan], tick: Callable[[], None]) -> list[float]:
        """Return the median latency in ms of every plan; a tick a plan."""

    def confirm(self, plans: Sequence[Plan]) -> list[Confirmed]:
        """Return the median latency of every plan, timed as thoroughly as a station does, and its upper end."""


@dataclass(frozen=True, slots=True)
class Table:
    """Median latencies in ms by genome, what other devices teach, and the model of both."""

    picture: Input
    classes: int
    measured: dict[str, float]
    model: LatencyModel

    def as_json(self) -> dict[str, Any]:
        """What was measured and what others teach, which determine the model."""
        return {"measured": self.measured, "teachers": [asdict(law) for law in self.model.teachers]}

    def plan(self, genome: str) -> Plan:
        """Every layer of a genome on this line."""
        return plan(parse(genome), self.picture, self.classes)

    def with_measured(self, measured: Mapping[str, float]) -> "Table":
        """The table with more measured networks, its model fitted anew."""
        known = self.measured | dict(measured)
        model = fit_latency([self.plan(g) for g in known], list(known.values()), self.model.teachers)
        return replace(self, measured=known, model=model)


def measure_table(
    picture: Input,
    classes: int,
    limits: BudgetLimits,
    book: LatencyBook,
    folder: Path,
    tick: Callable[[], None],
    space: SpaceLimits = EVERYTHING,
    others: Sequence[Timings] = (),
) -> None:
    """Measure the design in one call and fit the model; write latency.json into `folder`.

    Args:
        picture: what the networks see.
        classes: how many they tell apart.
        limits: the budget, which says what sizes of networks matter.
        book: the device's.
        folder: where to write.
        tick: called once for each network.
        space: what the line allows.
        others: books of the devices that teach this one, which then needs only the first `TAUGHT` of the design.
    """
    genomes = design(picture, classes, limits, book.device, space, MEASURED)
    plans = [plan(genome, picture, classes) for genome in genomes]
    teachers = [_law(other, plans) for other in others]
    number = TAUGHT if others else MEASURED
    measured = book.measure(plans[:number], tick)
    model = fit_latency(plans[:number], measured, teachers)
    rows = [
        {"genome": str(g), "measured_ms": ms, "predicted_ms": round(model.predict(p), 5)}
        for g, p, ms in zip(genomes[:number], plans[:number], measured, strict=True)
    ]
    document = {
        "fingerprint": book.fingerprint,
        "picture": asdict(picture),
        "classes": classes,
        "model": {"law": asdict(model.law), "teachers": [asdict(teacher) for teacher in teachers]},
        "measured": rows,
    }
    write_json(folder / "latency.json", document)


def _law(book: Timings, plans: Sequence[Plan]) -> Law:
    terms = terms_of(plans)
    return fit_law(terms, np.array(book.measure(plans, lambda: None)))


def load_table(folder: Path) -> Table:
    """Read what `measure_table` wrote."""
    document: dict[str, Any] = read_json(folder / "latency.json")
    law, teachers = document["model"]["law"], document["model"]["teachers"]
    return Table(
        Input(**document["picture"]),
        document["classes"],
        {row["genome"]: row["measured_ms"] for row in document["measured"]},
        LatencyModel(Law.from_json(law), tuple(map(Law.from_json, teachers))),
    )
