import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from factory.cost.book import Confirmed
from factory.cost.features import NAMES, features
from factory.cost.latency import LatencyModel, Law
from factory.cost.table import Table
from factory.profiles import BudgetLimits, SpaceLimits
from factory.score.protocol import FACTORY
from factory.score.ranking import Ranking
from factory.search.candidate import Pricing
from factory.search.scorer import Scorer
from factory.search.target import Target
from factory.spaces.deployable import Deployable
from factory.spaces.plan import Input, Plan
from factory.spaces.residual import random_genome
from factory.spaces.restriction import EVERYTHING

PICTURE = Input(16, 16, 1)
WEIGHTS = (0.015, 0.004, 0.03, 0.05, 0.2, 0.1, 0.05, 0.01, 0.02, 0.1, 0.07, 0.1, 0.1)  # ms a unit of each feature
MARGIN = 1.25  # of the known law's upper bound


def known_law() -> Law:
    """A law whose interval is as wide for every network."""
    none = tuple(0.0 for _ in NAMES)
    terms = tuple(range(len(NAMES)))
    return Law(terms, WEIGHTS, tuple(1.0 for _ in NAMES), (none,) * len(NAMES), 0.0, math.log(MARGIN), 0.1, 0.1)


@dataclass
class MadeUpBook:
    """Timings of a machine on which the known law holds times `factor`, give or take what its plan alone decides."""

    factor: float = 1.0
    spread: float = 0.0
    away: bool = False
    asked: list[list[Plan]] = field(default_factory=list)

    def measure(self, plans: Sequence[Plan], tick: Callable[[], None]) -> list[float]:
        """Time every plan by the law."""
        self.asked.append(list(plans))
        return [self._ms(plan) for plan in plans]

    def confirm(self, plans: Sequence[Plan]) -> list[Confirmed]:
        """Say the same again, without doubt."""
        return [Confirmed(self._ms(plan), self._ms(plan)) for plan in plans]

    def _ms(self, plan: Plan) -> float:
        seed = int(1e6 * features(plan).sum())
        off = math.exp(self.spread * np.random.default_rng(seed).standard_normal())
        return self.factor * off * float(features(plan) @ np.array(WEIGHTS))


@dataclass
class Measuring:
    """A table of measured networks, and what measures."""

    table: Table
    book: MadeUpBook


def aimed(pricing: Pricing, measuring: Measuring, ranking: Ranking) -> Target:
    """A kind of station with those prices and timings."""
    return Target(pricing, measuring.table, measuring.book, ranking)


@pytest.fixture
def measuring_of() -> Callable[..., Measuring]:
    """A table of 25 networks of the space, timed by a made-up book, with the model that was fitted to them."""

    def build(factor: float = 1.0, spread: float = 0.02, number: int = 25) -> Measuring:
        book, rng = MadeUpBook(factor, spread), np.random.default_rng(5)
        genomes = [str(random_genome(rng, PICTURE)) for _ in range(number)]
        table = Table(PICTURE, 2, {}, LatencyModel(known_law()))
        measured = book.measure([table.plan(genome) for genome in genomes], lambda: None)
        return Measuring(table.with_measured(dict(zip(genomes, measured, strict=True))), book)

    return build


@pytest.fixture
def pricing_of() -> Callable[..., Pricing]:
    """Prices by a latency law that is known, for 16 x 16 grey pictures of two classes."""

    def build(latency_ms: float = 0.3, size_mb: float = 0.1, space: SpaceLimits = EVERYTHING) -> Pricing:
        limits = BudgetLimits.model_construct(device="bench", latency_ms=latency_ms, size_mb=size_mb)
        return Pricing(PICTURE, 2, limits, LatencyModel(known_law()), space)

    return build


@pytest.fixture
def scorer() -> Scorer:
    """Scores by twelve noise pictures."""
    images = torch.randn(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return Scorer(Deployable(PICTURE, 2), images, 2, 0, replace(FACTORY, samples=12, repeats=1))
