"""The size regulariser of SWAP-Score (Peng et al., ICLR 2024, definition 3.4)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SizeRegulariser:
    """f(P) = exp(-(P - mu)^2 / sigma) with P and mu in thousands of parameters, sigma in their square."""

    mu: float
    sigma: float

    def factor(self, params: int) -> float:
        """Return f for a network of `params` parameters, in (0, 1]."""
        return math.exp(-((params / 1e3 - self.mu) ** 2) / self.sigma)


def derived(params: Sequence[int]) -> SizeRegulariser:
    """Derive mu and sigma from the parameter counts of networks of a space, of the kind that is scored.

    mu is the largest count, so that f only ever prefers the larger network; sigma is (mu / 2)^2, so that f is 1/e at
    half of mu.
    """
    mu = max(params) / 1e3
    return SizeRegulariser(mu, (0.5 * mu) ** 2)
