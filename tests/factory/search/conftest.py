from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from factory.cost.latency import LatencyModel
from factory.profiles import BudgetLimits, SpaceLimits
from factory.score.protocol import FACTORY
from factory.search.candidate import Pricing
from factory.search.scorer import Scorer
from factory.spaces.deployable import Deployable
from factory.spaces.plan import Input
from factory.spaces.restriction import EVERYTHING

PICTURE = Input(16, 16, 1)


@pytest.fixture
def pricing_of() -> Callable[..., Pricing]:
    """Prices by a latency law that is known, for 16 x 16 grey pictures of two classes."""

    def build(latency_ms: float = 0.3, size_mb: float = 0.1, space: SpaceLimits = EVERYTHING) -> Pricing:
        law = LatencyModel((0.004, 0.03, 0.05, 0.2, 0.1, 0.01, 0.02, 0.07, 0.015), 0.25, 0.1)
        limits = BudgetLimits.model_construct(device="bench", latency_ms=latency_ms, size_mb=size_mb)
        return Pricing(PICTURE, 2, limits, law, space)

    return build


@pytest.fixture
def scorer() -> Scorer:
    """Scores by twelve noise pictures."""
    images = torch.randn(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return Scorer(Deployable(PICTURE, 2), images, 2, 0, replace(FACTORY, samples=12, repeats=1))
