"""The first stage of the search: thousands of networks scored without training, the best of them measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from export.runtime.errors import GateError
from factory.cost.latency import LEVEL
from factory.cost.table import Table, Timings
from factory.data.dataset import Part
from factory.engine import Engine
from factory.profiles import SearchSettings
from factory.score.protocol import ScoreProtocol
from factory.score.ranking import Ranking
from factory.score.regulariser import SizeRegulariser, derived
from factory.search.candidate import Candidate, Costs, Pricing, candidate, pareto, ranked, standing
from factory.search.evolution import ask
from factory.search.refit import SHARES, Proof, Round, measure_front
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
    told: Sequence[Candidate], parents: Sequence[str], number: int, pricing: Pricing, rng: np.random.Generator
) -> list[tuple[str, Costs]]:
    """New genomes with their costs; in a space whose budgets are nearly out of reach, its smallest first."""
    asked = ask(parents, {c.genome for c in told}, number, pricing.networks, pricing.admit, rng)
    if not asked and not told:
        least = [(str(genome), pricing.costs(genome)) for genome in smallest_genomes(pricing)]
        asked = [(arch, costs) for arch, costs in least if pricing.keeps(costs)][:number]
    if not asked and not told:
        raise GateError("no network of the space keeps the budgets", fix="`factory space` says what can be reached")
    return asked


@dataclass(frozen=True, slots=True)
class Turn:
    """A part of the search between two refits: its number from 0, candidates scored at its end, and what was measured.

    `measured` holds medians in ms by genome.
    """

    number: int
    until: int
    measured: Mapping[str, float]


def evolve(
    settings: SearchSettings,
    pricing: Pricing,
    ranking: Ranking,
    scorer: Scorer,
    engine: Engine,
    state: SearchState,
    tick: Callable[[int], None],
    turn: Turn | None = None,
) -> list[Candidate]:
    """Search until enough are scored, going on from what `state` holds; return all of this turn and those before.

    `tick` is called with the number of candidates so far. Without a `turn`, `settings.candidates` are enough.

    Raises:
        GateError: if no genome that keeps the budgets was found at all.
    """
    turn = turn or Turn(0, settings.candidates, {})
    rng = np.random.default_rng(settings.seed)
    generation, told = state.restore(rng), state.told(turn.number)
    while len(told) < turn.until and not state.ended(turn.number):
        tick(len(told))
        number = min(settings.population, turn.until - len(told))
        best = ranked(standing(told, pricing, turn.measured, ranking))[: settings.population]
        asked = _asked(told, [c.genome for c in best], number, pricing, rng)
        if not asked:
            break
        new = []
        for (arch, costs), swap in zip(asked, engine.map(scorer, [arch for arch, _ in asked]), strict=True):
            new.append(candidate(arch, costs, swap, ranking))
            tick(len(told) + len(new))
        state.tell(generation, new, rng, turn.number)
        told, generation = told + new, generation + 1
    tick(len(told))
    return told


@dataclass(frozen=True, slots=True)
class Measuring:
    """With what a search learns real latencies: the line's table, and what measures."""

    table: Table
    book: Timings


def _searched(
    settings: SearchSettings,
    pricing: Pricing,
    ranking: Ranking,
    measuring: Measuring,
    say: Callable[[str], None],
    go_on: Callable[[Pricing, Turn], list[Candidate]],
) -> tuple[list[Candidate], int, Proof]:
    """Score, measure the front, refit, and again; those that stand in the end, how many were scored, and the proof."""
    table, rounds = measuring.table, list[Round]()
    for number, share in enumerate(SHARES):
        told = go_on(pricing, Turn(number, round(share * settings.candidates), table.measured))
        front = pareto(standing(told, pricing, table.measured, ranking))
        table, done = measure_front(front, pricing, table, measuring.book)
        if done.measured == 0 and share == SHARES[-1]:
            break
        pricing = pricing.relearned(table.model)
        rounds.append(done)
        say(
            f"search: {len(told)} scored; {done.measured} of the front measured, {done.above_bound} above their bound, "
            f"{done.over_budget} above the budget"
        )
    left = standing(told, pricing, table.measured, ranking)
    settled = all(c.measured_ms is not None for c in pareto(left))
    return left, len(told), Proof(LEVEL, tuple(rounds), settled, table.model.law.median_error)


def search(
    settings: SearchSettings,
    pricing: Pricing,
    measuring: Measuring,
    ranking: Ranking,
    train: Part,
    norm: Standard,
    engine: Engine,
    folder: Path,
    tick: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Run the evolution in `folder`, going on from what is there; leave search.json.

    `pricing` has the model of `measuring.table`. After each of `SHARES` of the candidates the front is measured, the
    model refitted with it, and what no longer keeps the budgets is left out.

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
        left, evaluated, proof = _searched(
            settings, pricing, ranking, measuring, say,
            lambda priced, turn: evolve(settings, priced, ranking, scorer, engine, state, tick, turn),
        )  # fmt: skip
    document = {
        "evaluated": evaluated,
        "ranking": ranking.as_json(),
        "protocol": asdict(protocol) | {"digest": protocol.digest},
        "saturation": [{"samples": m.protocol.samples, "saturation": m.saturation} for m in tried],
        "latency": asdict(proof),
        "front": [asdict(c) for c in pareto(left)],
        "candidates": [asdict(c) for c in ranked(left)],
    }
    write_json(folder / "search.json", document)
    (folder / STATE).unlink()  # all of it is in the document now, which unlike the database has one form


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates that keep the budgets best first, the front by latency, and how they were scored and measured.

    `evaluated` counts those that were left out by a measurement or a refit as well.
    """

    evaluated: int
    candidates: list[Candidate]
    front: list[Candidate]
    protocol: ScoreProtocol
    ranking: dict[str, Any]
    proof: Proof


def load_search(folder: Path) -> Found:
    """Read what `search` left."""
    document = read_json(folder / "search.json")
    protocol = {key: value for key, value in document["protocol"].items() if key != "digest"}
    return Found(
        document["evaluated"],
        [Candidate(**row) for row in document["candidates"]],
        [Candidate(**row) for row in document["front"]],
        ScoreProtocol(**protocol),
        document["ranking"],
        Proof.from_json(document["latency"]),
    )
