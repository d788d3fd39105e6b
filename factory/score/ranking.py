"""From what is cheap to know of a network to one number that ranks it: as the paper does, or calibrated."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from factory.score.regulariser import SizeRegulariser


@dataclass(frozen=True, slots=True)
class Features:
    """What a ranking may read, all above 0 and of the network that is deployed.

    The counts are those of `factory.cost.count.Cost`; latency is predicted, in ms; `swap` is SWAP-Score.
    """

    params: int
    macs: int
    late_macs: int
    positions: int
    narrowest: int
    convolutions: int
    width: float
    latency_ms: float
    swap: float


class Ranking(Protocol):
    """A score of a network that is not degenerate: above 0, higher is better."""

    @property
    def name(self) -> str:
        """What to call it in tables."""

    def __call__(self, features: Features) -> float:
        """Return the score."""

    def as_json(self) -> dict[str, Any]:
        """Name and constants."""


@dataclass(frozen=True, slots=True)
class Regularised:
    """SWAP-Score times the size regulariser, as published."""

    size: SizeRegulariser
    name: str = "paper"

    def __call__(self, features: Features) -> float:
        """Return swap * f(params)."""
        return features.swap * self.size.factor(features.params)

    def as_json(self) -> dict[str, Any]:
        """Name, mu and sigma."""
        return {"name": self.name, "mu": self.size.mu, "sigma": self.size.sigma}


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """A product of powers of the features: linear in their logarithms, which is how the exponents are fitted."""

    exponents: tuple[tuple[str, float], ...]
    name: str = "calibrated"

    def __call__(self, features: Features) -> float:
        """Return the product of feature ** exponent."""
        values = asdict(features)
        return math.exp(sum(exponent * math.log(values[name]) for name, exponent in self.exponents))

    def as_json(self) -> dict[str, Any]:
        """Name and exponents."""
        return {"name": self.name, "exponents": dict(self.exponents)}
