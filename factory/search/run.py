"""The first stage of the search: thousands of networks scored without training, the best of them measured."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from export.runtime.errors import GateError
from factory.cost.latency import LEVEL
from factory.data.dataset import Part
from factory.engine import Engine
from factory.profiles import SearchSettings
from factory.score.protocol import ScoreProtocol
from factory.score.regulariser import SizeRegulariser, derived
from factory.search.candidate import Candidate, Costs, candidate, pareto, ranked
from factory.search.evolution import ask
from factory.search.refit import SHARES, WALKED, Proof, Round, measure_front
from factory.search.saturation import SATURATED, least_saturated
from factory.search.scorer import Scorer, scorer_of
from factory.search.space import SpaceReport, smallest_genomes, survey
from factory.search.state import SearchState, open_state
from factory.search.target import Target, ask_all
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
    told: Sequence[Candidate], number: int, population: int, target: Target, rng: np.random.Generator
) -> list[tuple[str, Costs]]:
    """New genomes for a target, with their costs; in a space whose budgets are nearly out of reach, its smallest."""
    pricing, seen = target.pricing, {c.genome for c in told}
    parents = [c.genome for c in ranked(target.standing(told))[:population]]
    asked = ask(parents, seen, number, pricing.networks, pricing.admit, rng)
    if not asked and not parents:
        least = [(str(genome), pricing.costs(genome)) for genome in smallest_genomes(pricing)]
        asked = [(arch, costs) for arch, costs in least if pricing.keeps(costs) and arch not in seen][:number]
    return asked


def _generation(
    told: Sequence[Candidate], number: int, population: int, targets: Sequence[Target], rng: np.random.Generator
) -> dict[str, tuple[Costs, Target]]:
    """New genomes, as many for each target: a roomy budget must not crowd out a tight one."""
    asked: dict[str, tuple[Costs, Target]] = {}
    for place, target in enumerate(targets):
        own = len(range(place, number, len(targets)))
        for arch, costs in _asked(told, own, population, target, rng):
            asked.setdefault(arch, (costs, target))
    if not asked and not told:
        raise GateError("no network of the space keeps the budgets", fix="`factory space` says what can be reached")
    return asked


@dataclass(frozen=True, slots=True)
class Turn:
    """A part of the search between two refits: its number from 0, and the candidates scored at its end."""

    number: int
    until: int


def evolve(
    settings: SearchSettings,
    targets: Sequence[Target],
    scorer: Scorer,
    engine: Engine,
    state: SearchState,
    tick: Callable[[int], None],
    turn: Turn | None = None,
) -> list[Candidate]:
    """Search until enough are scored, going on from what `state` holds; return all of this turn and those before.

    A candidate is told as the target sees it for which it was asked; `Target.standing` tells what it is to the others.
    `tick` is called with the number of candidates so far. Without a `turn`, `settings.candidates` for each are enough.

    Raises:
        GateError: if no genome that keeps the budgets was found at all.
    """
    turn = turn or Turn(0, settings.candidates * len(targets))
    rng = np.random.default_rng(settings.seed)
    generation, told = state.restore(rng), state.told(turn.number)
    while len(told) < turn.until and not state.ended(turn.number):
        tick(len(told))
        number = min(settings.population * len(targets), turn.until - len(told))
        asked = _generation(told, number, settings.population, targets, rng)
        if not asked:
            break
        new = []
        for (arch, (costs, target)), swap in zip(asked.items(), engine.map(scorer, list(asked)), strict=True):
            new.append(candidate(arch, costs, swap, target.ranking))
            tick(len(told) + len(new))
        state.tell(generation, new, rng, turn.number)
        told, generation = told + new, generation + 1
    tick(len(told))
    return told


def _learned(
    settings: SearchSettings,
    targets: Sequence[Target],
    say: Callable[[str], None],
    go_on: Callable[[Sequence[Target], Turn], list[Candidate]],
) -> tuple[list[Candidate], Sequence[Target], list[list[Round]]]:
    """Score, measure the fronts, refit, and again; all that was scored, the targets as known then, their rounds."""
    rounds: list[list[Round]] = [[] for _ in targets]
    shares = WALKED if any(target.book.away for target in targets) else SHARES
    for number, share in enumerate(shares):
        told = go_on(targets, Turn(number, round(share * settings.candidates * len(targets))))
        measured = ask_all(targets, partial(measure_front, told))
        if number and share == shares[-1] and not any(done.measured for _, done in measured):
            break
        targets = [target for target, _ in measured]
        for target, own, (_, done) in zip(targets, rounds, measured, strict=True):
            own.append(done)
            where = f" on {target.device}" if len(targets) > 1 else ""
            say(
                f"search: {len(told)} scored; {done.measured} of the front measured{where}, {done.above_bound} above "
                f"their bound, {done.over_budget} above the budget"
            )
    return told, targets, rounds


def search(
    settings: SearchSettings,
    targets: Sequence[Target],
    train: Part,
    norm: Standard,
    engine: Engine,
    folder: Path,
    tick: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Run the evolution in `folder`, going on from what is there; leave search.json.

    One search serves all `targets`, each with `settings.candidates` sought for it, which are weighed for all, and a
    front of its own. After each of `SHARES` of the candidates the fronts
    are measured, the models refitted with that, and what no longer keeps the budgets is left out.

    Raises:
        GateError: if the space cannot keep the budgets, saying which is the tightest.
        Unmeasured: if the station of a target has yet to measure some of its front.
    """
    for target in targets:
        survey(target.pricing).require()
    pricing = targets[0].pricing  # of pictures and space, which are the same for all
    tried = least_saturated(pricing, train, norm, settings, engine)
    protocol = tried[0].protocol
    if tried[0].saturation > SATURATED:
        share, names = f"{tried[0].saturation:.0%} of its ceiling at best", {t.ranking.name for t in targets}
        say(
            f"search: SWAP-Score is saturated ({share}) and mostly counts activations; ranked by "
            + " and ".join(sorted(names))
        )
    scorer = scorer_of(pricing, train, norm, settings.seed, protocol)
    with open_state(folder / STATE) as state:
        told, targets, rounds = _learned(
            settings, targets, say,
            lambda known, turn: evolve(settings, known, scorer, engine, state, tick, turn),
        )  # fmt: skip
    document = {
        "evaluated": len(told),
        "protocol": asdict(protocol) | {"digest": protocol.digest},
        "saturation": [{"samples": m.protocol.samples, "saturation": m.saturation} for m in tried],
        "targets": {target.device: _told(target, told, own) for target, own in zip(targets, rounds, strict=True)},
    }
    write_json(folder / "search.json", document)
    (folder / STATE).unlink()  # all of it is in the document now, which unlike the database has one form


def _told(target: Target, told: Sequence[Candidate], rounds: Sequence[Round]) -> dict[str, Any]:
    """What the document says of one target."""
    left = target.standing(told)
    front = pareto(left)
    settled = all(c.measured_ms is not None for c in front)
    return {
        "ranking": target.ranking.as_json(),
        "latency": asdict(Proof(LEVEL, tuple(rounds), settled, target.table.model.law.median_error)),
        "front": [asdict(c) for c in front],
        "candidates": [asdict(c) for c in ranked(left)],
    }


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates that keep a target's budgets best first, its front by latency, and how they were scored and measured.

    `evaluated` counts those that were left out by a measurement or a refit as well, and those for other targets.
    """

    evaluated: int
    candidates: list[Candidate]
    front: list[Candidate]
    protocol: ScoreProtocol
    ranking: dict[str, Any]
    proof: Proof


def load_search(folder: Path, device: str) -> Found:
    """Read what `search` left for the target of that device."""
    document = read_json(folder / "search.json")
    own = document["targets"][device]
    protocol = {key: value for key, value in document["protocol"].items() if key != "digest"}
    return Found(
        document["evaluated"],
        [Candidate(**row) for row in own["candidates"]],
        [Candidate(**row) for row in own["front"]],
        ScoreProtocol(**protocol),
        own["ranking"],
        Proof.from_json(own["latency"]),
    )
