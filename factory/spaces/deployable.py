"""The residual space of one line as a `Space`: its genomes as strings, its networks for the line's pictures."""

from dataclasses import dataclass

import numpy as np
from torch import nn

from factory.profiles import SpaceLimits
from factory.spaces import residual
from factory.spaces.network import build
from factory.spaces.plan import Input
from factory.spaces.protocol import Size
from factory.spaces.restriction import EVERYTHING, confined, draw


@dataclass(frozen=True, slots=True)
class Deployable:
    """Networks for pictures of one size; the genome itself says how wide and how deep they are."""

    picture: Input
    classes: int
    name: str = "residual"
    limits: SpaceLimits = EVERYTHING

    @property
    def full(self) -> Size:
        """The deployed network."""
        return Size(None, None, self.classes, self.picture.channels)

    @property
    def proxy(self) -> Size:
        """The same: narrower ones were tried and rank no better (tests/benchmarks/README.md)."""
        return self.full

    def check(self, arch: str) -> str:
        """Return the genome in its canonical form.

        Raises:
            ValueError: naming the part that is not of the space.
        """
        return str(residual.parse(arch))

    def connected(self, arch: str) -> bool:
        """Every genome is."""
        return bool(self.check(arch))

    def sample(self, rng: np.random.Generator) -> str:
        """Draw a genome that fits the pictures and the limits."""
        return str(draw(self.limits, rng, self.picture))

    def mutate(self, arch: str, rng: np.random.Generator) -> str:
        """Return a neighbour; a step out of the limits leads to any value that they leave."""
        parent = residual.parse(arch)
        while True:
            child = confined(self.limits, residual.mutate(parent, rng, self.picture), rng)
            if residual.fits_input(child, self.picture):
                return str(child)

    def crossover(self, a: str, b: str, rng: np.random.Generator) -> str:
        """Return the front of `a` with the back of `b`."""
        return str(residual.crossover(residual.parse(a), residual.parse(b), rng, self.picture))

    def network(self, arch: str, size: Size) -> nn.Module:
        """Build the network with batch-norm and without noise.

        Raises:
            ValueError: if the genome is not of the space, or a size asks for what the genome decides.
        """
        if size.channels is not None or size.depth is not None:
            raise ValueError(f"a residual genome says its own width and depth, but the size is {size}")
        return build(residual.plan(residual.parse(arch), self.picture, size.classes))
