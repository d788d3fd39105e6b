"""How a score is measured: everything beside the architecture, the images and the seed, in one named, hashed value."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class ScoreProtocol:
    """Settings of SWAP-Score.

    Attributes:
        name: the preset it comes from.
        samples: S, the number of images.
        image_size: side in pixels of the square images; None leaves them as they are.
        detail: side in pixels of the grid that the pictures are averaged to and smoothly enlarged from; None keeps all.
        channels: width of the proxy network, in the space's own sense; None is the network that is deployed.
        depth: its depth, likewise.
        batch_norm: "batch" normalises by the images at hand, "fresh" by the running statistics of a new network (0, 1).
        initialisation: "normal" draws N(0, 1), "kaiming" N(0, 2 / fan-in); biases are zero.
        repeats: initialisations, over which the score is the mean.
    """

    name: str
    samples: int
    image_size: int | None
    detail: int | None
    channels: int | None
    depth: int | None
    batch_norm: Literal["batch", "fresh"]
    initialisation: Literal["normal", "kaiming"]
    repeats: int

    @property
    def digest(self) -> str:
        """Hash of every setting but the name."""
        settings = asdict(self)
        del settings["name"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def sized(self, channels: int | None, depth: int | None) -> "ScoreProtocol":
        """The same protocol on a network of another size."""
        return replace(self, channels=channels, depth=depth)


# As the authors' released code: one cell of 3 channels, 16 CIFAR images, N(0, 1) weights, mean of 32 (swap.md, 1).
PAPER: Final = ScoreProtocol("paper", 16, 32, None, 3, 1, "batch", "normal", 32)
# 32 real images at their own size, since 16 saturate wide networks; four initialisations halve the noise of one.
FACTORY: Final = ScoreProtocol("factory", 32, None, None, None, None, "batch", "normal", 4)
# As `paper`, on pictures without fine detail: it ranks DARTS cells better (tests/benchmarks/README.md).
SMOOTH: Final = replace(PAPER, name="smooth", detail=4)
PRESETS: Final = {preset.name: preset for preset in (PAPER, FACTORY, SMOOTH)}
