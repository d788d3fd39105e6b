"""Evolution by ask and tell, on any space: budgets first, then the score (SWAP-NAS, arXiv 2403.04161, algorithm 1).

Parents win a tournament among the best so far; a child is a mutation of the winner, or of its crossover with the
second; now and then it is a fresh random architecture. What the caller does not admit is never scored.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeVar

import numpy as np

from factory.spaces.protocol import Space

TOURNAMENT: Final = 3
FRESH: Final = 0.1  # share of children that are random
CROSSED: Final = 0.3  # chance that a child has two parents
TRIES: Final = 20_000  # random architectures looked at for the first that is admitted
FEW: Final = 50  # and for one more, once there are parents

T = TypeVar("T")
Admit = Callable[[str], T | None]


def _new(draw: Callable[[], str], admit: Admit[T], seen: Collection[str], tries: int) -> tuple[str, T] | None:
    for _ in range(tries):
        arch = draw()
        admitted = None if arch in seen else admit(arch)
        if admitted is not None:
            return arch, admitted
    return None


def _child(parents: Sequence[str], space: Space, rng: np.random.Generator) -> str:
    first, second = sorted(int(i) for i in rng.integers(len(parents), size=TOURNAMENT))[:2]
    arch = parents[first]
    if rng.random() < CROSSED:
        arch = space.crossover(arch, parents[second], rng)
    return space.mutate(arch, rng)


def ask(
    parents: Sequence[str],
    seen: Collection[str],
    number: int,
    space: Space,
    admit: Admit[T],
    rng: np.random.Generator,
) -> list[tuple[str, T]]:
    """Return up to `number` new architectures, each with what `admit` says of it; fewer if there seem to be no more.

    Args:
        parents: the population, best first; empty at the start.
        seen: architectures not to be asked for again.
        number: how many are wanted.
        space: where to move.
        admit: returns None for an architecture that is not wanted, else what the caller needs to know of it.
        rng: the only source of chance.
    """
    known = set(seen)
    asked: list[tuple[str, T]] = []
    for _ in range(number):
        new = None
        if not parents or rng.random() < FRESH:
            new = _new(lambda: space.sample(rng), admit, known, FEW if parents else TRIES)
        if new is None and parents:
            new = _new(lambda: _child(parents, space, rng), admit, known, FEW)
        if new is not None:
            asked.append(new)
            known.add(new[0])
        elif not parents:
            break  # so few are admitted that drawing is no way: go on from what there is
    return asked
