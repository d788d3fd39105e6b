"""The audit itself: draw networks of one line, look at them untrained, train them briefly, and judge the scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from export.runtime.errors import GateError
from factory.engine import Engine
from factory.evidence.audit import FEWEST, Audited, judge
from factory.evidence.audit_figure import audit_figure
from factory.profiles import SearchSettings
from factory.score.swap import SwapScore
from factory.score.zerocost import METRICS
from factory.search.candidate import Costs, Pricing, features
from factory.search.run import regulariser
from factory.search.saturation import least_saturated
from factory.search.scorer import Scorer, scorer_of
from factory.search.space import survey
from factory.search.trials import TrialBook
from factory.spaces.restriction import draw
from factory.workspace import write_atomic, write_json

Drawn = Sequence[tuple[str, Costs]]
Say = Callable[[str], None]

NEAR: Final = 0.5  # of the latency budget: below, a network is beaten by a larger one anyway
TRIES: Final = 5_000  # genomes looked at for one more that is near


def draw_networks(pricing: Pricing, number: int, seed: int, say: Say) -> Drawn:
    """Draw up to `number` random networks that keep the budgets, with their costs.

    They take at least `NEAR` of the latency budget; where the space has too few of those, faster ones make up for it.

    Raises:
        GateError: if there are fewer than `FEWEST`.
    """
    rng = np.random.default_rng(seed)
    near: dict[str, Costs] = {}
    faster: dict[str, Costs] = {}
    tries = 0
    while len(near) < number and tries < TRIES:
        tries += 1
        arch = str(draw(pricing.space, rng, pricing.picture))
        costs = None if arch in near or arch in faster else pricing.admit(arch)
        if costs is not None and costs.latency_ms >= NEAR * pricing.limits.latency_ms:
            near[arch], tries = costs, 0
        elif costs is not None and len(faster) < number:
            faster[arch] = costs
    drawn = [*near.items(), *faster.items()][:number]
    if len(near) < number:
        say(
            f"audit: {len(near)} random networks keep the budgets and take half of latency_ms or more; "
            f"{len(drawn) - len(near)} faster ones make up for {number - len(near)}"
        )
    if len(drawn) < FEWEST:
        raise GateError(
            "too few networks keep the budgets to compare scores on them",
            expected=f"{FEWEST} or more",
            found=f"{len(drawn)} among random ones",
            fix="raise the budgets; `factory space` says what they leave",
        )
    return drawn


@dataclass(frozen=True, slots=True)
class Look:
    """SWAP-Score (None for a degenerate network) and NWOT on the same pictures, as a pure function of the genome."""

    scorer: Scorer

    def __call__(self, arch: str) -> tuple[SwapScore | None, float]:
        """Look at one network."""
        space, images = self.scorer.space, self.scorer.images
        labels = torch.zeros(len(images), dtype=torch.int64)  # which NWOT does not need
        nwot = METRICS["nwot"](space.network(arch, space.full), images, labels, self.scorer.seed)
        return self.scorer(arch), nwot


def audit(
    line: str,
    settings: SearchSettings,
    pricing: Pricing,
    drawn: Drawn,
    book: TrialBook,
    engine: Engine,
    folder: Path,
    tick: Callable[[], None],
    say: Say,
) -> None:
    """Score and train the networks, and judge: write audit.json and audit.svg into `folder`.

    SWAP-Score is measured as the search would. `tick` is called once a network.

    Raises:
        GateError: if fewer than `FEWEST` are not degenerate, or the space cannot keep the budgets.
    """
    train, norm = book.trial.train, book.trial.norm
    size = regulariser(survey(pricing))
    protocol = least_saturated(pricing, train, norm, settings, engine)[0].protocol
    look = Look(scorer_of(pricing, train, norm, settings.seed, protocol))
    looks = list(engine.map(look, [arch for arch, _ in drawn]))
    alive = [
        (arch, features(costs, swap.swap), swap.saturation, nwot)
        for (arch, costs), (swap, nwot) in zip(drawn, looks, strict=True)
        if swap is not None
    ]
    if len(alive) < len(drawn):
        say(f"audit: {len(drawn) - len(alive)} networks are degenerate and left out")
    if len(alive) < FEWEST:
        raise GateError("too few networks that are not degenerate", expected=f"{FEWEST} or more", found=str(len(alive)))
    histories = book.run([arch for arch, *_ in alive], engine, lambda _: tick())
    nets = [Audited(*net, history) for net, history in zip(alive, histories, strict=True)]
    document = {"line": line, **judge(nets, size, settings.seed)}
    write_json(folder / "audit.json", document)
    write_atomic(folder / "audit.svg", audit_figure(document).encode())
