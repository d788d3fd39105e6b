"""Two restrictions of a line's space side by side, and which single choices the line could do without.

Random networks of each, all near the budgets, are scored without training, and whole distributions of scores are
compared, not their best: as in Radosavovic et al., "Designing network design spaces", CVPR 2020, section 3.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.stats import ks_2samp

from export.runtime.errors import GateError
from factory.data.dataset import Part
from factory.engine import Engine
from factory.profiles import SearchSettings, SpaceLimits
from factory.score.ranking import Ranking
from factory.search.candidate import Candidate, Costs, Pricing, candidate, pareto
from factory.search.compare_figure import comparison_figure
from factory.search.saturation import least_saturated
from factory.search.scorer import scorer_of
from factory.spaces.residual import parse
from factory.spaces.restriction import allowed, allows, choices, describe, draw, toml, union, without, written
from factory.training.pictures import Standard
from factory.workspace import digest, write_atomic, write_json

NETWORKS: Final = 200  # of each restriction
LEAST: Final = 20  # fewer say nothing of a distribution
DRAWS: Final = 20_000
NEAR: Final = 0.5  # share of a budget: a network that takes less of both is beaten by a larger one
CHANCE: Final = 0.05  # a difference that chance makes more often than this decides nothing
LOST: Final = 0.05  # share of the front that a suggestion may cost
SEEN: Final = 10  # of a choice that fewer networks make too little is known to suggest anything


@dataclass(frozen=True, slots=True)
class Sample:
    """Random networks of one restriction near the budgets, and the share of all drawn that keep the budgets."""

    limits: SpaceLimits
    feasible_share: float
    networks: dict[str, Costs]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What leaving out one choice would cost: shares of the front's members and of its best score.

    Also the median score of the networks that make the choice, whose number is `networks`, and of those that do not;
    None where there are none.
    """

    choice: str
    networks: int
    front_lost: float
    best_lost: float
    median_with: float | None
    median_without: float | None


def sample(pricing: Pricing, limits: SpaceLimits, seed: int) -> Sample:
    """Draw up to `NETWORKS` different networks near the budgets: equal limits, equal networks, whatever the rest."""
    rng = np.random.default_rng([seed, int(digest(limits.model_dump(mode="json"))[:8], 16)])
    networks: dict[str, Costs] = {}
    feasible = drawn = 0
    while drawn < DRAWS and len(networks) < NETWORKS:
        genome = draw(limits, rng, pricing.picture)
        costs = pricing.costs(genome)
        drawn += 1
        if pricing.keeps(costs):
            feasible += 1
            if _near(pricing, costs):
                networks[str(genome)] = costs
    return Sample(limits, feasible / drawn, networks)


def _near(pricing: Pricing, costs: Costs) -> bool:
    limits = pricing.limits
    return max(costs.latency_upper_ms / limits.latency_ms, costs.size_mb / limits.size_mb) >= NEAR


def lost(pool: Sequence[Candidate], limits: SpaceLimits) -> tuple[float, float]:
    """Shares of the pool's front (score, latency, size) and of its best score that the limits would cost."""
    front = pareto(pool)
    gone = sum(not allows(limits, parse(c.genome)) for c in front)
    best = max(c.score for c in pool)
    left = max((c.score for c in pool if allows(limits, parse(c.genome))), default=0.0)
    return gone / len(front), (best - left) / best


def judge(pool: Sequence[Candidate], limits: SpaceLimits) -> list[Verdict]:
    """Judge every choice that the limits could do without, in the order of the alphabet."""
    made = [(choices(parse(c.genome)), c.score) for c in pool]
    verdicts = []
    for choice in allowed(limits):
        narrower = without(limits, choice)
        if narrower is not None:
            own = [score for chosen, score in made if choice in chosen]
            rest = [score for chosen, score in made if choice not in chosen]
            medians = (float(np.median(scores)) if scores else None for scores in (own, rest))
            verdicts.append(Verdict(written(choice), len(own), *lost(pool, narrower), *medians))
    return verdicts


def suggestions(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that cost nothing of the best score and next to nothing of the front; the cheapest, then worst, first."""
    cheap = [v for v in verdicts if v.networks >= SEEN and v.front_lost <= LOST and v.best_lost == 0]
    return sorted(cheap, key=lambda v: (v.front_lost, (v.median_with or 0) - (v.median_without or 0)))


def narrow(pool: Sequence[Candidate], space: SpaceLimits, suggested: Sequence[Verdict]) -> SpaceLimits:
    """The space without the suggested choices, in their order, as long as they are cheap together as well."""
    limits, names = space, {written(choice): choice for choice in allowed(space)}
    for verdict in suggested:
        narrower = without(limits, names[verdict.choice])
        if narrower is not None:
            front_lost, best_lost = lost(pool, narrower)
            limits = narrower if front_lost <= LOST and best_lost == 0 else limits
    return limits


def distributions(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """Kolmogorov-Smirnov's distance with its p, the share of each above the other's median, and which is better."""
    test = ks_2samp(a, b)
    above = [float(np.mean(np.array(own) > np.median(other))) for own, other in ((a, b), (b, a))]
    better = "neither" if test.pvalue > CHANCE or above[0] == above[1] else "A" if above[0] > above[1] else "B"
    return {
        "ks": {"statistic": float(test.statistic), "p": float(test.pvalue)},
        "above": {"A": above[0], "B": above[1]},
        "better": better,
    }


def document(
    samples: Sequence[Sample], scored: Sequence[Sequence[Candidate]], pool: Sequence[Candidate], space: SpaceLimits
) -> dict[str, Any]:
    """All that `factory space --compare` tells of two samples and their candidates.

    Of each restriction, `front_lost` is the share of the front of both samples that it does not allow. `suggestions`
    are the `choices` that are cheap to leave out one by one; `toml` is the line's space without them, as far as they
    are cheap together, which costs `front_lost` of the front. They are judged on the pool: networks of all that either
    restriction allows, since in the two samples together a choice of one alone would be rare.
    """
    both = list({c.genome: c for candidates in scored for c in candidates}.values())
    scores = [sorted(c.score for c in candidates) for candidates in scored]
    restrictions = [
        {
            "restriction": describe(own.limits, space),
            "feasible_share": own.feasible_share,
            "n": len(row),
            "quantiles": {str(q): float(np.percentile(row, q)) for q in (10, 50, 90)},
            "front_lost": lost(both, own.limits)[0],
            "scores": row,
        }
        for own, row in zip(samples, scores, strict=True)
    ]
    verdicts = judge(pool, union(*(own.limits for own in samples)))
    suggested = suggestions(verdicts)
    limits = narrow(pool, space, suggested)
    return {
        "restrictions": restrictions,
        **distributions(*scores),
        "choices": [asdict(v) for v in verdicts],
        "suggestions": [asdict(v) for v in suggested],
        "front": len(pareto(pool)),
        "front_lost": lost(pool, limits)[0],
        "toml": "" if limits == space else toml(limits),
    }


def _enough(own: Sample, candidates: Sequence[Candidate], space: SpaceLimits) -> list[Candidate]:
    valid = [c for c in candidates if c.swap > 0]
    if len(valid) < LEAST:
        raise GateError(
            f"too few networks near the budgets in restriction {describe(own.limits, space)!r}",
            expected=f"{LEAST} that take {NEAR:.0%} of a budget or more, of {DRAWS:,} random ones",
            found=f"{len(valid)}, while {own.feasible_share:.1%} keep the budgets",
            fix="Compare wider restrictions, or set budgets that the space can keep and use up",
        )
    return valid


def compare(
    settings: SearchSettings,
    pricing: Pricing,
    ranking: Ranking,
    alternatives: Sequence[SpaceLimits],
    train: Part,
    norm: Standard,
    engine: Engine,
    folder: Path,
    ticker: Callable[[int], AbstractContextManager[Callable[[], None]]],
) -> None:
    """Score random networks of two restrictions, and of both together; leave compare.json and compare.svg.

    `ticker` is opened with the number of networks to score, and then told of each.

    Raises:
        GateError: if a restriction has too few networks near the budgets.
    """
    samples = [sample(pricing, limits, settings.seed) for limits in (*alternatives, union(*alternatives))]
    networks = {arch: costs for own in samples for arch, costs in own.networks.items()}
    protocol = least_saturated(pricing, train, norm, settings, engine)[0].protocol
    scorer = scorer_of(pricing, train, norm, settings.seed, protocol)
    found: dict[str, Candidate] = {}
    scores = engine.map(scorer, list(networks))
    first = list(islice(scores, 1))  # workers take seconds to start, which would spoil the estimate of the rest
    with ticker(len(networks)) as tick:
        for arch, swap in zip(networks, chain(first, scores), strict=True):
            found[arch] = candidate(arch, networks[arch], swap, ranking)
            tick()
    *scored, pool = [_enough(own, [found[arch] for arch in own.networks], pricing.space) for own in samples]
    result = document(samples[:2], scored, pool, pricing.space)
    write_json(folder / "compare.json", result)
    write_atomic(folder / "compare.svg", comparison_figure(result).encode())
