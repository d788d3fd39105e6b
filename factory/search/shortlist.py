"""The second stage of the search: a short real training decides among the few best and a plain reference."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from export.runtime.errors import GateError
from factory.cost.latency import LatencyBook
from factory.data.dataset import Dataset
from factory.profiles import TrainingSettings
from factory.score.swap import SizeRegulariser
from factory.search.candidate import Candidate, Pricing, candidate
from factory.search.pool import Scorer
from factory.spaces.network import build
from factory.spaces.residual import Genome, parse, plain_genomes, plan
from factory.training.checkpoint import Progress
from factory.training.compute import Compute
from factory.training.full import recipe_of
from factory.training.loop import Recipe, Standard, fit
from factory.workspace import read_json, write_json

NEAR = 1.5  # a plain network predicted to be this much slower than the budget is not worth measuring


@dataclass(frozen=True, slots=True)
class Entry:
    """One network of the shortlist; `latency_ms` is measured, validation figures are of the short training."""

    role: Literal["candidate", "reference"]
    candidate: Candidate
    latency_ms: float
    val_balanced_accuracy: float
    val_loss: float
    history: list[dict[str, float | None]]


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
        (costs.macs, str(genome), genome)
        for costs, genome in priced
        if costs.size_mb <= limits.size_mb and costs.latency_ms <= NEAR * limits.latency_ms
    ]
    for _, _, genome in sorted(near, reverse=True):
        measured = book.measure([plan(genome, pricing.picture, pricing.classes)], lambda: None)[0]
        if measured <= limits.latency_ms:
            return genome
    return None


def within_budget(
    candidates: Sequence[Candidate],
    number: int,
    pricing: Pricing,
    book: LatencyBook,
    tick: Callable[[], None],
) -> list[tuple[Candidate, float]]:
    """Measure the best until `number` keep the latency budget for real; each with its measured median in ms."""
    kept: list[tuple[Candidate, float]] = []
    for item in diverse(candidates, 3 * number):
        measured = book.measure([plan(parse(item.genome), pricing.picture, pricing.classes)], tick)[0]
        if measured <= pricing.limits.latency_ms:
            kept.append((item, measured))
        if len(kept) == number:
            break
    return kept


def _train(
    genome: str,
    pricing: Pricing,
    data: Dataset,
    norm: Standard,
    recipe: Recipe,
    compute: Compute,
    checkpoint: Path,
    on_epoch: Callable[[Progress], None],
) -> list[dict[str, float | None]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build(plan(parse(genome), pricing.picture, pricing.classes))
    return fit(network, data.train, data.val, norm, recipe, compute, checkpoint, on_epoch)


def shortlist(
    best: Sequence[Candidate],
    number: int,
    settings: TrainingSettings,
    pricing: Pricing,
    size: SizeRegulariser,
    scorer: Scorer,
    book: LatencyBook,
    data: Dataset,
    norm: Standard,
    compute: Compute,
    folder: Path,
    update: Callable[[int, str], None],
) -> None:
    """Train the best `number` and the reference briefly; write shortlist.json, the best on validation first.

    `update` is called with the epochs done over all networks, and the name of the one at work.

    Raises:
        GateError: if no network keeps the latency budget when measured.
    """
    entries: list[tuple[Literal["candidate", "reference"], Candidate]] = []
    measured: dict[str, float] = {}
    for item, latency in within_budget(best, number, pricing, book, lambda: None):
        entries.append(("candidate", item))
        measured[item.genome] = latency
    plain = reference(pricing, book)
    if plain is not None and str(plain) not in measured:
        torch.set_num_threads(1)
        entries.append(("reference", candidate(plain, pricing.costs(plain), scorer(str(plain)), size)))
        torch.set_num_threads(compute.threads)
        measured[str(plain)] = book.measure([plan(plain, pricing.picture, pricing.classes)], lambda: None)[0]
    if not entries:
        raise GateError("none of the best networks keeps the latency budget when measured", fix="raise latency_ms")
    # without Swapout, which costs accuracy until a training is long
    recipe = recipe_of(settings, settings.short_epochs)
    rows = []
    for number_done, (role, item) in enumerate(entries):
        history = _train(
            item.genome, pricing, data, norm, recipe, compute,
            folder / f"checkpoint-{number_done}.safetensors",
            lambda p, n=number_done, g=item.genome: update(n * recipe.epochs + p.epoch, g),  # type: ignore[misc]
        )  # fmt: skip
        last = history[-1]
        accuracy, loss = last["val_balanced_accuracy"], last["val_loss"]
        assert accuracy is not None and loss is not None
        rows.append(Entry(role, item, measured[item.genome], accuracy, loss, history))
    rows.sort(key=lambda e: (e.val_loss, e.candidate.genome))
    write_json(folder / "shortlist.json", [asdict(row) for row in rows])
    for checkpoint in folder.glob("checkpoint-*.safetensors"):
        checkpoint.unlink()


def load_shortlist(folder: Path) -> list[Entry]:
    """Read the entries, the best on validation first."""
    rows: list[dict[str, Any]] = read_json(folder / "shortlist.json")
    return [Entry(**(row | {"candidate": Candidate(**row["candidate"])})) for row in rows]
