"""Which protocol to score a line's networks with: the one whose ceiling binds least."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from factory.data.dataset import Part
from factory.engine import Engine
from factory.profiles import SearchSettings
from factory.score.protocol import FACTORY, ScoreProtocol
from factory.search.candidate import Pricing
from factory.search.evolution import ask
from factory.search.scorer import scorer_of
from factory.training.pictures import Standard

SATURATED: Final = 0.5  # above this share of its ceiling a score mostly counts activations
SAMPLES: Final = (16, 32, 64)
PROBED: Final = 12


@dataclass(frozen=True, slots=True)
class Measured:
    """A protocol and the median saturation of the networks it was tried on."""

    protocol: ScoreProtocol
    saturation: float


def least_saturated(
    pricing: Pricing, train: Part, norm: Standard, settings: SearchSettings, engine: Engine
) -> list[Measured]:
    """Try numbers of samples, as far as there are images, on random feasible networks; the least saturated first."""
    rng = np.random.default_rng(settings.seed)
    archs = [arch for arch, _ in ask([], (), PROBED, pricing.networks, pricing.admit, rng)]
    tried: list[Measured] = []
    for samples in sorted({min(samples, len(train.labels)) for samples in SAMPLES}):
        protocol = replace(FACTORY, samples=samples, repeats=1)
        scores = engine.map(scorer_of(pricing, train, norm, settings.seed, protocol), archs)
        saturation = float(np.median([1.0 if score is None else score.saturation for score in scores]))
        tried.append(Measured(replace(protocol, repeats=settings.repeats), saturation))
    return sorted(tried, key=lambda m: m.saturation)
