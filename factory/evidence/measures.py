"""Every score of one architecture: a task that may run anywhere, and the protocol that a space is measured with."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from export.runtime.errors import UsageError
from factory.score.protocol import PRESETS, ScoreProtocol
from factory.score.regulariser import SizeRegulariser, derived
from factory.score.swap import SwapScore
from factory.score.zerocost import METRICS
from factory.search.scorer import Scorer
from factory.spaces.catalogue import SPACES
from factory.spaces.counting import count, parameters
from factory.spaces.protocol import Size, Space

OURS: Final = ("swap", "regularised")
SCORES: Final = (*OURS, *METRICS, "params", "flops")
PROXY_PIXELS: Final = 32
FULL_PIXELS: Final = {"transnas-micro": 256, "transnas-macro": 256}  # the others' benchmarks trained on 32 x 32
SMALLEST: Final = {"residual": 32, "transnas-micro": 32, "transnas-macro": 32}  # pixels; smaller ones reduce to nothing
LABELS: Final = 10  # classes that `load_pictures` has in turn where it knows them
SAMPLED: Final = 500  # architectures whose sizes the regulariser is derived from


def space_named(name: str) -> Space:
    """Look up a space.

    Raises:
        UsageError: naming all there are.
    """
    if name not in SPACES:
        raise UsageError(f"there is no space {name!r}", expected=f"one of {', '.join(SPACES)}", found=name)
    return SPACES[name]


def protocol_for(space: Space, preset: str | None) -> ScoreProtocol:
    """The preset on the space's proxy network, for pictures of 32 x 32; without a name, the one that suits the space.

    The authors' own network, one cell of 3 channels, exists for DARTS cells only: there it is what `paper` and `smooth`
    mean. It holds no normal cell, so it can only rank cells that are both.
    """
    name = preset or ("paper" if space.name == "darts" else "factory")
    protocol = replace(PRESETS[name], image_size=PROXY_PIXELS)
    if name in {"paper", "smooth"} and space.name == "darts":
        return protocol
    return protocol.sized(space.proxy.channels, space.proxy.depth)


def scored_size(space: Space, protocol: ScoreProtocol) -> Size:
    """The network that the protocol scores."""
    return replace(space.full, channels=protocol.channels, depth=protocol.depth)


def params(space: Space, arch: str, size: Size) -> int:
    """Trainable parameters of a network of some size."""
    return parameters(lambda: space.network(arch, size))


def regulariser_for(space: Space, protocol: ScoreProtocol, seed: int) -> SizeRegulariser:
    """Derive mu and sigma from random networks of the space, in the size that is scored; no table is looked at."""
    rng = np.random.default_rng(seed)
    size = scored_size(space, protocol)
    sizes: list[int] = []
    while len(sizes) < SAMPLED:
        arch = space.sample(rng)
        if space.connected(arch):
            sizes.append(params(space, arch, size))
    return derived(sizes)


@dataclass(frozen=True, slots=True)
class Measured:
    """Scores by name, nan where one has no value, and the seconds that each took on one thread."""

    scores: dict[str, float]
    seconds: dict[str, float]
    swap: SwapScore | None  # None also where it was not asked for
    params: int  # of the full network
    proxy_params: int


@dataclass(frozen=True, slots=True)
class Measure:
    """The scores `names`, of `SCORES`, as a pure function of the architecture, but for the seconds.

    SWAP-Score is the mean over the protocol's initialisations. The other metrics see the same pictures and the same
    network, initialised once, as their authors do. Parameters and FLOPs (MACs) are of the full network.
    """

    scorer: Scorer
    names: tuple[str, ...]
    size_factor: SizeRegulariser

    def __call__(self, arch: str) -> Measured | None:
        """Measure one architecture; None where no path leads through it."""
        space = self.scorer.space
        if not space.connected(arch):
            return None
        full, proxy = (params(space, arch, size) for size in (space.full, scored_size(space, self.scorer.protocol)))
        scores: dict[str, float] = {}
        seconds: dict[str, float] = {}
        swap = None
        if set(OURS) & set(self.names):
            start = time.perf_counter()
            swap = self.scorer(arch)
            value = math.nan if swap is None else swap.swap
            scores |= {"swap": value, "regularised": value * self.size_factor.factor(proxy)}
            seconds |= dict.fromkeys(OURS, time.perf_counter() - start)
        for name in self.names:
            if name not in OURS:
                start = time.perf_counter()
                scores[name] = float(full) if name == "params" else self._other(name, arch)
                seconds[name] = time.perf_counter() - start
        return Measured(scores, seconds, swap, full, proxy)

    def _other(self, name: str, arch: str) -> float:
        space = self.scorer.space
        if name == "flops":
            pixels = FULL_PIXELS.get(space.name, 32)
            return float(count(lambda: space.network(arch, space.full), space.full.image_channels, pixels).macs)
        network = space.network(arch, scored_size(space, self.scorer.protocol))
        return METRICS[name](network, self.scorer.images, labels(len(self.scorer.images)), self.scorer.seed)


def labels(samples: int) -> Tensor:
    """Classes of the pictures, int64 (S,), for metrics that need some: those of `load_pictures`, where it knows any."""
    return torch.arange(samples) % LABELS


def checked_scores(names: Sequence[str]) -> tuple[str, ...]:
    """The scores asked for, in the order of `SCORES`; all where none is named.

    Raises:
        UsageError: naming those there are.
    """
    for name in names:
        if name not in SCORES:
            raise UsageError(f"there is no score {name!r}", expected=f"any of {', '.join(SCORES)}", found=name)
    return tuple(name for name in SCORES if not names or name in names)
