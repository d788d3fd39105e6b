"""An exponential moving average of the weights (Polyak and Juditsky 1992; with warm-up as in Tan and Le 2019)."""

import copy

import torch
from torch import nn


class Average:
    """A copy of a network that follows it slowly: weights and float buffers; whole-number buffers are as they are now.

    The decay is min(decay, (1 + t) / (10 + t)) at step t, so that the first weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = copy.deepcopy(network).requires_grad_(False), decay
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step`, from 0."""
        own, new = ([pair[side] for pair in self._floats] for side in (0, 1))
        torch._foreach_lerp_(own, new, 1 - min(self.decay, (1 + step) / (10 + step)))
        for mine, theirs in self._others:
            mine.copy_(theirs)
