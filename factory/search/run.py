"""The first stage of the search: thousands of networks scored without training."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from export.runtime.errors import GateError
from factory.data.dataset import Part
from factory.engine import Engine
from factory.profiles import SearchSettings
from factory.score.protocol import ScoreProtocol
from factory.score.ranking import Ranking
from factory.score.regulariser import SizeRegulariser, derived
from factory.search.candidate import Candidate, Costs, Pricing, candidate, pareto, ranked
from factory.search.evolution import ask
from factory.search.saturation import SATURATED, least_saturated
from factory.search.scorer import Scorer, scorer_of
from factory.search.space import SpaceReport, smallest_genomes, survey
from factory.search.state import SearchState, open_state
from factory.training.pictures import Standard
from factory.workspace import read_json, write_json

STATE: Final = "search.sqlite"


def regulariser(report: SpaceReport) -> SizeRegulariser:
    """Aim at the upper end of what both budgets leave: the largest feasible network of the sample.

    Raises:
        GateError: if the space cannot keep the budgets, saying which is the tightest.
    """
    report.require()
    return derived([costs.params for costs in report.feasible])


def _asked(
    told: Sequence[Candidate], number: int, pricing: Pricing, population: int, rng: np.random.Generator
) -> list[tuple[str, Costs]]:
    """New genomes with their costs; in a space whose budgets are nearly out of reach, its smallest first."""
    parents = [c.genome for c in ranked(told)[:population]]
    asked = ask(parents, {c.genome for c in told}, number, pricing.networks, pricing.admit, rng)
    if not asked and not told:
        least = [(str(genome), pricing.costs(genome)) for genome in smallest_genomes(pricing)]
        asked = [(arch, costs) for arch, costs in least if pricing.keeps(costs)][:number]
    if not asked and not told:
        raise GateError("no network of the space keeps the budgets", fix="`factory space` says what can be reached")
    return asked


def evolve(
    settings: SearchSettings,
    pricing: Pricing,
    ranking: Ranking,
    scorer: Scorer,
    engine: Engine,
    state: SearchState,
    tick: Callable[[int], None],
) -> list[Candidate]:
    """Search until `settings.candidates` are scored, going on from what `state` holds; return all of them.

    `tick` is called with the number of candidates so far.

    Raises:
        GateError: if no genome that keeps the budgets was found at all.
    """
    rng = np.random.default_rng(settings.seed)
    generation, told = state.restore(rng)
    while len(told) < settings.candidates:
        tick(len(told))
        number = min(settings.population, settings.candidates - len(told))
        asked = _asked(told, number, pricing, settings.population, rng)
        if not asked:
            break
        new = []
        for (arch, costs), swap in zip(asked, engine.map(scorer, [arch for arch, _ in asked]), strict=True):
            new.append(candidate(arch, costs, swap, ranking))
            tick(len(told) + len(new))
        state.tell(generation, new, rng)
        told, generation = told + new, generation + 1
    tick(len(told))
    return told


def search(
    settings: SearchSettings,
    pricing: Pricing,
    ranking: Ranking,
    train: Part,
    norm: Standard,
    engine: Engine,
    folder: Path,
    tick: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Run the evolution in `folder`, going on from what is there; leave search.json.

    Raises:
        GateError: if the space cannot keep the budgets, saying which is the tightest.
    """
    survey(pricing).require()
    tried = least_saturated(pricing, train, norm, settings, engine)
    protocol = tried[0].protocol
    if tried[0].saturation > SATURATED:
        share = f"{tried[0].saturation:.0%} of its ceiling at best"
        say(f"search: SWAP-Score is saturated ({share}) and mostly counts activations; ranked by {ranking.name}")
    scorer = scorer_of(pricing, train, norm, settings.seed, protocol)
    with open_state(folder / STATE) as state:
        told = evolve(settings, pricing, ranking, scorer, engine, state, tick)
    document = {
        "evaluated": len(told),
        "ranking": ranking.as_json(),
        "protocol": asdict(protocol) | {"digest": protocol.digest},
        "saturation": [{"samples": m.protocol.samples, "saturation": m.saturation} for m in tried],
        "front": [asdict(c) for c in pareto(told)],
        "candidates": [asdict(c) for c in ranked(told)],
    }
    write_json(folder / "search.json", document)
    (folder / STATE).unlink()  # all of it is in the document now, which unlike the database has one form


@dataclass(frozen=True, slots=True)
class Found:
    """All candidates best first, the front by latency, and how they were scored."""

    candidates: list[Candidate]
    front: list[Candidate]
    protocol: ScoreProtocol
    ranking: dict[str, Any]


def load_search(folder: Path) -> Found:
    """Read what `search` left."""
    document = read_json(folder / "search.json")
    protocol = {key: value for key, value in document["protocol"].items() if key != "digest"}
    return Found(
        [Candidate(**row) for row in document["candidates"]],
        [Candidate(**row) for row in document["front"]],
        ScoreProtocol(**protocol),
        document["ranking"],
    )
