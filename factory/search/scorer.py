"""SWAP-Score of an architecture as a pure function that can travel to another process or machine."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from factory.data.dataset import Part
from factory.score.protocol import ScoreProtocol
from factory.score.swap import SwapScore, swap_score
from factory.search.candidate import Pricing
from factory.spaces.protocol import Size, Space
from factory.training.pictures import Standard, to_device


@dataclass(frozen=True, slots=True)
class Scorer:
    """Everything a score depends on but the architecture."""

    space: Space
    images: Tensor  # float32 (S, C, H, W), normalised
    classes: int
    seed: int
    protocol: ScoreProtocol

    def __call__(self, arch: str) -> SwapScore | None:
        """Score one architecture; None where it is degenerate."""
        size = Size(self.protocol.channels, self.protocol.depth, self.classes, self.images.shape[1])
        if not self.space.connected(arch):
            return None
        return swap_score(lambda: self.space.network(arch, size), self.images, self.seed, self.protocol)


def score_images(train: Part, norm: Standard, samples: int, seed: int) -> Tensor:
    """Draw `samples` training images, all classes in turn; float32 (S, C, H, W), normalised."""
    rng = np.random.default_rng(seed)
    queues = [list(rng.permutation(np.flatnonzero(train.labels == label))) for label in np.unique(train.labels)]
    rows: list[int] = []
    while len(rows) < min(samples, len(train.labels)):
        rows += [int(queue.pop()) for queue in queues if queue]
    return norm.apply(to_device(train.images[rows[:samples]], "cpu").float() / 255)


def scorer_of(pricing: Pricing, train: Part, norm: Standard, seed: int, protocol: ScoreProtocol) -> Scorer:
    """The score of a line's networks on its own training images."""
    images = score_images(train, norm, protocol.samples, seed)
    return Scorer(pricing.networks, images, pricing.classes, seed, protocol)
