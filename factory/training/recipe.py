"""How a network is trained: SGD with Nesterov momentum, cosine with warm-up, and the seeds of its randomness."""

import hashlib
import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from factory.profiles import Augmentation

WARM_UP: Final = 0.1  # share of all steps


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how to train. `learning_rate` is for a batch of 64 and grows with the batch.

    Attributes:
        sampled: whether Swapout layers draw their masks in training; else they compute their expectation there too.
        averaging: decay a step of an exponential moving average of the weights, which is then what is evaluated and
            kept; 0 is off.
        patience: evaluations in a row without a lower validation loss that end the training; 0 is off.
        parts: micro-batches that a batch is split into (see `factory.training.steps`); a part of the result.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    class_weights: bool
    augmentation: Augmentation
    seed: int
    sampled: bool = True
    averaging: float = 0.0
    patience: int = 0
    parts: int = 1


def learning_rate(progress: float) -> float:
    """Factor of the peak rate at `progress` in [0, 1): linear warm-up, then a half cosine to zero."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD over all parameters of the network."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]  # batch-norm and biases are not decayed
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)


def seed_of(*path: str | int) -> int:
    """A seed of 64 bits for one purpose, such as ("order", seed, epoch): unlike paths give unrelated streams."""
    return int.from_bytes(hashlib.blake2b(repr(path).encode(), digest_size=8).digest(), "big")
