"""The second stage of the search: a short real training decides among the few best and a plain reference."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from export.runtime.errors import GateError
from factory.engine import Engine
from factory.search.candidate import Candidate, candidate
from factory.search.nominate import Nominated, nominate
from factory.search.scorer import Scorer
from factory.search.target import Target
from factory.search.trials import History, TrialBook
from factory.spaces.residual import parse
from factory.workspace import read_json, write_json


@dataclass(frozen=True, slots=True)
class Entry:
    """One network of the shortlist on one device; validation figures are of the short training.

    `latency_ms` is measured, `everywhere` whether it keeps the budgets of all the line's devices.
    """

    role: Literal["candidate", "reference"]
    candidate: Candidate
    latency_ms: float
    everywhere: bool
    val_balanced_accuracy: float
    val_loss: float
    history: History


def outcome(history: History) -> tuple[float, float]:
    """Balanced accuracy and loss on validation images at the end of a training."""
    accuracy, loss = history[-1]["val_balanced_accuracy"], history[-1]["val_loss"]
    assert accuracy is not None and loss is not None
    return accuracy, loss


def _references(nominated: Nominated, scorer: Scorer, engine: Engine) -> list[Candidate]:
    """The plain networks that no search found, scored."""
    known = {c.genome for c in nominated.candidates}
    new = [genome for genome in dict.fromkeys(nominated.references.values()) if genome not in known]
    target = nominated.tried[0].target
    return [
        candidate(genome, target.pricing.costs(parse(genome)), swap, target.ranking)
        for genome, swap in zip(new, engine.map(scorer, new), strict=True)
    ]


def shortlist(
    found: Mapping[str, Sequence[Candidate]],
    number: int,
    targets: Sequence[Target],
    scorer: Scorer,
    trials: TrialBook,
    engine: Engine,
    folder: Path,
    tick: Callable[[str], None],
) -> None:
    """Train the best `number` of each target, of all together, and the references briefly; write shortlist.json.

    Every network that was trained is weighed on every target whose budgets it keeps when measured.

    Args:
        found: what the search left, by device, best first.
        number: of candidates for a target.
        targets: the kinds of station.
        scorer: of the references.
        trials: trains briefly.
        engine: works.
        folder: where to write.
        tick: called with the name of each network that is trained.

    Raises:
        GateError: if no network keeps the budgets of a target when measured.
        Unmeasured: if the station of a target has yet to measure some of them.
    """
    nominated = nominate(found, number, targets)
    pool = [*nominated.candidates, *_references(nominated, scorer, engine)]
    standing = {one.target.device: one.standing(pool) for one in nominated.tried}
    for device, own in standing.items():
        if not own:
            message = f"none of the best networks keeps the budgets of {device} when measured"
            raise GateError(message, fix="raise latency_ms")
    genomes = [c.genome for c in pool]
    everywhere = {genome for genome in genomes if all(one.keeps(genome) for one in nominated.tried)}
    histories = dict(zip(genomes, trials.run(genomes, engine, tick), strict=True))

    def entry(item: Candidate, plain: str | None) -> Entry:
        assert item.measured_ms is not None
        history = histories[item.genome]
        role: Literal["candidate", "reference"] = "reference" if item.genome == plain else "candidate"
        return Entry(role, item, item.measured_ms, item.genome in everywhere, *outcome(history), history)

    entries = {
        device: sorted(
            (entry(c, nominated.references.get(device)) for c in own), key=lambda e: (e.val_loss, e.candidate.genome)
        )
        for device, own in standing.items()
    }
    write_json(folder / "shortlist.json", {device: [asdict(e) for e in own] for device, own in entries.items()})


def load_shortlist(folder: Path, device: str) -> list[Entry]:
    """Read the entries of a device, the best on validation first."""
    rows: list[dict[str, Any]] = read_json(folder / "shortlist.json")[device]
    return [Entry(**(row | {"candidate": Candidate(**row["candidate"])})) for row in rows]
