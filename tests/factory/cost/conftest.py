"""Shared by the tests of what a network costs."""

import numpy as np
import pytest

from factory.cost import book
from factory.profiles import DeviceProfile
from factory.spaces.plan import Input, Plan
from factory.spaces.residual import plan, random_genome

PICTURE = Input(24, 24, 1)
DEVICE = DeviceProfile(name="bench", description="this machine", runtime="onnxruntime-cpu", precisions=("fp32",))


def drawn(count: int, seed: int = 0) -> list[Plan]:
    """Plans of random genomes."""
    rng = np.random.default_rng(seed)
    return [plan(random_genome(rng, PICTURE), PICTURE, 3) for _ in range(count)]


class Ticks:
    """Counts what was reported done."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for a moment only: these tests read what was measured, not how well."""
    monkeypatch.setattr(book, "SECONDS", 0.002)
