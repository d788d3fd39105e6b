"""The seed paper's ablation (Peng et al., ICLR 2024, table 3): what counting patterns sample-wise is good for."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factory.engine import Engine
from factory.evidence import statistics
from factory.evidence.measures import SMALLEST, scored_size
from factory.evidence.rows import FEWEST
from factory.score.stack import Stack
from factory.score.swap import pictured
from factory.search.scorer import Scorer

Array = NDArray[np.float64]

SIDES: Final = (4, 8, 16, 32)  # pixels
STANDARD_SAMPLES: Final = 64  # the standard count cannot exceed them


class _Signs:
    """Keeps, of each sample in each of R copies, which activation values are positive, as bits."""

    def __init__(self, copies: int) -> None:
        self.copies = copies
        self.bits: list[NDArray[np.uint8]] = []

    def again(self, x: Tensor) -> None:
        """A map read twice tells no samples apart that it did not before."""

    def record(self, x: Tensor) -> None:
        own = (x > 0).reshape(len(x), self.copies, -1)
        self.bits.append(np.packbits(own.numpy(), axis=2))

    def counts(self) -> list[int]:
        codes = np.concatenate(self.bits, axis=2)
        return [len(np.unique(codes[:, copy], axis=0)) for copy in range(self.copies)]


@torch.inference_mode()
def standard_patterns(scorer: Scorer, arch: str, images: Tensor) -> float:
    """Mean over the protocol's initialisations of the number of distinct activation patterns of the network.

    A pattern is the vector "is activation value v positive?" over all V of them, one for each image (definition 3.1):
    the count is at most their number.

    Args:
        scorer: space, seed and protocol of SWAP-Score; its own images are not used.
        arch: a connected architecture.
        images: float32 (S, C, H, W).
    """
    protocol = scorer.protocol
    pictures = pictured(images, protocol)
    with torch.device("meta"):
        network = scorer.space.network(arch, scored_size(scorer.space, protocol))
    stack = Stack(network, protocol.repeats, protocol.batch_norm)
    first = scorer.seed * 1000
    stack.draw(range(first, first + protocol.repeats), protocol.initialisation == "kaiming", pictures)
    signs = _Signs(protocol.repeats)
    stack(pictures, signs)
    return sum(signs.counts()) / protocol.repeats


@dataclass(frozen=True, slots=True)
class Ablate:
    """Standard patterns and SWAP-Score of an architecture for every input size, as a pure function."""

    scorer: Scorer
    images: Tensor  # float32 (64, C, H, W), normalised: of the standard patterns
    sides: tuple[int, ...]

    def __call__(self, arch: str) -> list[tuple[float, float]]:
        """Return (standard, SWAP) for each side; SWAP is nan where the network is degenerate."""
        pairs = []
        for side in self.sides:
            scorer = replace(self.scorer, protocol=replace(self.scorer.protocol, image_size=side))
            swap = scorer(arch)
            pairs.append((standard_patterns(scorer, arch, self.images), math.nan if swap is None else swap.swap))
        return pairs


def ablation(
    ablate: Ablate, archs: Sequence[str], factors: Array, truth: Array, engine: Engine, tick: Callable[[], None]
) -> list[dict[str, Any]]:
    """Rank correlation of each kind of count with the truth, a dict an input size, None where a count is constant.

    Args:
        ablate: the task.
        archs: connected architectures, n of them.
        factors: the size regulariser's factor of each, (n,).
        truth: trained results (n,).
        engine: maps the task.
        tick: called once an architecture.
    """
    counts = np.empty((len(archs), len(ablate.sides), 2))
    for row, pairs in zip(counts, engine.map(ablate, archs), strict=True):
        row[:] = pairs
        tick()
    rows = []
    for index, side in enumerate(ablate.sides):
        standard, swap = counts[:, index].T
        known = np.isfinite(swap)
        kinds = {"standard": standard, "swap": swap, "regularised": swap * factors}
        rows.append(
            {
                "image_size": side,
                "n": int(known.sum()),
                **{name: _spearman(values[known], truth[known]) for name, values in kinds.items()},
            }
        )
    return rows


def _spearman(values: Array, truth: Array) -> float | None:
    value = statistics.spearman(values, truth) if len(values) >= FEWEST else math.nan
    return None if math.isnan(value) else value


def sides_for(space: str) -> tuple[int, ...]:
    """Those of `SIDES` at which the space's networks still have a map to reduce."""
    return tuple(side for side in SIDES if side >= SMALLEST.get(space, 1))
