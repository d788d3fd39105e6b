from collections.abc import Callable

import pytest
import torch

from factory.profiles import Augmentation
from factory.spaces.network import build
from factory.spaces.plan import Input, Plan
from factory.spaces.residual import parse, plan
from factory.swapout.network import Network
from factory.swapout.schedule import Noise, Schedule
from factory.training.recipe import Recipe

GENOME = "stem_w8_s2-basic_w8_d2_k3_e1_s1-mb_w16_d2_k3_e2_s2"


@pytest.fixture
def shape() -> Plan:
    """Every kind of join: identity and projection, with and without activation on the stream."""
    return plan(parse(GENOME), Input(24, 24, 1), 2)


@pytest.fixture
def fresh(shape: Plan) -> Callable[..., Network]:
    """Build the network of `shape`, with Swapout unless told otherwise, always with the same weights."""

    def network(*, swapout: bool = True, seed: int = 0) -> Network:
        torch.manual_seed(seed)
        return build(shape, Noise.swapout(Schedule.per_block((1.0, 0.75, 0.5))) if swapout else None)

    return network


@pytest.fixture
def recipe_of() -> Callable[..., Recipe]:
    """A short recipe, changed by keyword."""

    def recipe(**changes: object) -> Recipe:
        usual: dict[str, object] = {
            "epochs": 4,
            "batch": 16,
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "label_smoothing": 0.1,
            "class_weights": True,
            "augmentation": Augmentation(flip_vertical=False),
            "seed": 0,
        }
        return Recipe(**(usual | changes))  # type: ignore[arg-type]

    return recipe
