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
    """Derive mu and sigma from the parameter counts of networks of a space that keep the budgets.

    mu is the largest count, the upper end of what size and latency leave, so that f prefers the larger network;
    sigma is mu^2, a relative width of 1, so that f only falls to exp(-1/4) at half that size and never outvotes the
    score among networks of like size. The published choice sigma = mu depends on the unit and is far narrower
    (`python -m tests.benchmarks regulariser` compares them).
    """
    mu = max(params) / 1e3
    return SizeRegulariser(mu, mu**2)
