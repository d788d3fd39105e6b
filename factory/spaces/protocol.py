"""What every search space offers, whether its networks are deployed or only looked up in a table.

An architecture is one string, in the form its benchmark prints. A network is made of torch's own layers and of those
in `factory.spaces.layers`, so that a score can stack several initialisations of it into one.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import nn


@dataclass(frozen=True, slots=True)
class Size:
    """How large a network of an architecture is built. What `channels` and `depth` count is said by each space.

    None means: as the architecture itself says.
    """

    channels: int | None
    depth: int | None
    classes: int
    image_channels: int = 3


class Space(Protocol):
    """A set of architectures, how to move in it, and how to build one."""

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def full(self) -> Size:
        """The network that the benchmark trained, or that is deployed."""

    @property
    def proxy(self) -> Size:
        """The narrow network that SWAP-Score is computed on."""

    def check(self, arch: str) -> str:
        """Return the architecture in its one canonical form.

        Raises:
            ValueError: naming the part that is not of the space and what is allowed.
        """

    def connected(self, arch: str) -> bool:
        """Whether any path leads from the input to the output."""

    def sample(self, rng: np.random.Generator) -> str:
        """Draw an architecture."""

    def mutate(self, arch: str, rng: np.random.Generator) -> str:
        """Return a neighbour, never `arch` itself."""

    def crossover(self, a: str, b: str, rng: np.random.Generator) -> str:
        """Return an architecture whose every choice is one of its parents'."""

    def network(self, arch: str, size: Size) -> nn.Module:
        """Build the network: images (N, image_channels, H, W) to logits (N, classes)."""
