"""The second stage of the search: a short real training decides among the few best and a plain reference."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from export.runtime.errors import GateError
from factory.cost.book import LatencyBook
from factory.engine import Engine
from factory.score.ranking import Ranking
from factory.search.candidate import Candidate, Pricing, candidate
from factory.search.scorer import Scorer
from factory.search.trials import History, TrialBook
from factory.spaces.residual import Genome, parse, plain_genomes, plan
from factory.workspace import read_json, write_json

NEAR: Final = 1.5  # a plain network predicted to be this much slower than the budget is not worth measuring


@dataclass(frozen=True, slots=True)
class Entry:
    """One network of the shortlist; `latency_ms` is measured, validation figures are of the short training."""

    role: Literal["candidate", "reference"]
    candidate: Candidate
    latency_ms: float
    val_balanced_accuracy: float
    val_loss: float
    history: History


@dataclass(frozen=True, slots=True)
class Proving:
    """What candidates are measured and tried with: costs, the device's timings, short trainings, and who works."""

    pricing: Pricing
    latencies: LatencyBook
    trials: TrialBook
    engine: Engine


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


def reference(pricing: Pricing, book: LatencyBook) -> Genome | None:
    """The plain residual network with most MACs that keeps both budgets when measured, or None if none does."""
    priced = [(pricing.costs(genome), genome) for genome in plain_genomes(pricing.picture)]
    limits = pricing.limits
    near = [
        (costs.macs, str(genome), genome, pricing.keeps(costs))
        for costs, genome in priced
        if costs.size_mb <= limits.size_mb and costs.latency_ms <= NEAR * limits.latency_ms
    ]
    near.sort(reverse=True)
    surely = next((place for place, (*_, keeps) in enumerate(near) if keeps), len(near) - 1)
    for some in (near[: surely + 1], near[surely + 1 :]):  # in one call each: a station may have to be walked to
        plans = [plan(genome, pricing.picture, pricing.classes) for _, _, genome, _ in some]
        measured = book.measure(plans, lambda: None) if some else []
        for (_, _, genome, _), ms in zip(some, measured, strict=True):
            if ms <= limits.latency_ms:
                return genome
    return None


def within_budget(
    candidates: Sequence[Candidate],
    number: int,
    pricing: Pricing,
    book: LatencyBook,
    tick: Callable[[], None],
) -> list[tuple[Candidate, float]]:
    """The best `number` that keep the latency budget when measured; each with its measured median in ms."""
    tried = diverse(candidates, 3 * number)
    measured = book.measure([plan(parse(item.genome), pricing.picture, pricing.classes) for item in tried], tick)
    kept = [(item, ms) for item, ms in zip(tried, measured, strict=True) if ms <= pricing.limits.latency_ms]
    return kept[:number]


def _reference(proving: Proving, ranking: Ranking, scorer: Scorer) -> Candidate | None:
    plain = reference(proving.pricing, proving.latencies)
    if plain is None:
        return None
    (swap,) = proving.engine.map(scorer, [str(plain)])
    return candidate(str(plain), proving.pricing.costs(plain), swap, ranking)


def outcome(history: History) -> tuple[float, float]:
    """Balanced accuracy and loss on validation images at the end of a training."""
    accuracy, loss = history[-1]["val_balanced_accuracy"], history[-1]["val_loss"]
    assert accuracy is not None and loss is not None
    return accuracy, loss


def shortlist(
    best: Sequence[Candidate],
    number: int,
    ranking: Ranking,
    scorer: Scorer,
    proving: Proving,
    folder: Path,
    tick: Callable[[str], None],
) -> None:
    """Train the best `number` and the reference briefly; write shortlist.json, the best on validation first.

    `tick` is called with the name of each network that is trained.

    Raises:
        GateError: if no network keeps the latency budget when measured.
    """
    pricing, latencies = proving.pricing, proving.latencies
    kept = within_budget(best, number, pricing, latencies, lambda: None)
    plain = _reference(proving, ranking, scorer)
    entries: list[tuple[Literal["candidate", "reference"], Candidate, float]] = [("candidate", *item) for item in kept]
    if plain is not None and all(plain.genome != item.genome for item, _ in kept):
        shape = plan(parse(plain.genome), pricing.picture, pricing.classes)
        entries.append(("reference", plain, latencies.measure([shape], lambda: None)[0]))
    if not entries:
        raise GateError("none of the best networks keeps the latency budget when measured", fix="raise latency_ms")
    histories = proving.trials.run([item.genome for _, item, _ in entries], proving.engine, tick)
    rows = [
        Entry(role, item, latency, *outcome(history), history)
        for (role, item, latency), history in zip(entries, histories, strict=True)
    ]
    rows.sort(key=lambda e: (e.val_loss, e.candidate.genome))
    write_json(folder / "shortlist.json", [asdict(row) for row in rows])


def load_shortlist(folder: Path) -> list[Entry]:
    """Read the entries, the best on validation first."""
    rows: list[dict[str, Any]] = read_json(folder / "shortlist.json")
    return [Entry(**(row | {"candidate": Candidate(**row["candidate"])})) for row in rows]
