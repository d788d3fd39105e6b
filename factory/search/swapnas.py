"""SWAP-NAS (Peng et al., ICLR 2024, section 4) on any space: evolution driven by a score that needs no training."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np

from factory.search.evolution import ask
from factory.spaces.protocol import Space

POPULATION: Final = 10
BATCH: Final = 5  # asked for together, so that workers share them; whatever their number, the search is the same

Scores = Callable[[Sequence[str]], Iterable[float | None]]


def swap_nas(
    space: Space, scores: Scores, number: int, rng: np.random.Generator, admit: Callable[[str], bool]
) -> list[tuple[str, float]]:
    """Score up to `number` architectures and return all that have a score, in the order in which they were scored.

    Args:
        space: where to search.
        scores: of some architectures, in their order; None for one that is degenerate.
        number: of scores to spend.
        rng: the only source of chance.
        admit: whether an architecture may be scored at all.
    """
    told: list[tuple[str, float]] = []
    seen: set[str] = set()
    while len(seen) < number:
        best = sorted(told, key=lambda item: (-item[1], item[0]))[:POPULATION]
        wanted = min(BATCH, number - len(seen))
        asked = [
            arch
            for arch, _ in ask(
                [arch for arch, _ in best], seen, wanted, space, lambda a: True if admit(a) else None, rng
            )
        ]
        if not asked:
            break
        seen.update(asked)
        told += [(arch, score) for arch, score in zip(asked, scores(asked), strict=True) if score is not None]
    return told
