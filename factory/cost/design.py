"""Which networks to measure on a device of which nothing is known yet."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from factory.cost.count import count
from factory.cost.features import features
from factory.cost.latency import Floats
from factory.profiles import BudgetLimits, DeviceProfile, SpaceLimits
from factory.spaces.plan import Input
from factory.spaces.residual import Genome, plan
from factory.spaces.restriction import draw

DRAWS: Final = 3000
# What one ms buys on the slowest and on the fastest device thought of: a thread of a processor, and a graphics card.
THREAD_MACS_PER_MS: Final = (2e6, 100e6)
CARD_MACS_PER_MS: Final = (20e6, 2000e6)
STRATA: Final = 4  # equal parts of the range, on a log scale, that are served in turn


def chosen(shares: Floats, strata: NDArray[np.intp], number: int) -> list[int]:
    """Indices of `number` rows, each the one whose value a linear model knows least after those before it.

    That is greedy D-optimal design: the row of largest posterior variance under a unit prior and unit noise adds most
    to the determinant of the information (Chaloner and Verdinelli, "Bayesian experimental design: a review",
    Statistical Science 1995). The strata take turns, so every prefix spreads over all of them.

    Args:
        shares: float64 (N, T), `number` rows or more.
        strata: of each row, counted from 0, int (N,).
        number: how many are wanted.
    """
    scaled = shares / np.sqrt((shares**2).mean(0) + np.finfo(float).tiny)
    spread, free, picked = np.eye(shares.shape[1]), np.ones(len(shares), bool), list[int]()
    for turn in range(number):
        own = free & (strata == turn % STRATA)
        variance = np.einsum("nt,tu,nu->n", scaled, spread, scaled)
        best = int(np.argmax(np.where(own if own.any() else free, variance, -1.0)))
        picked.append(best)
        free[best] = False
        gained = spread @ scaled[best]
        spread -= np.outer(gained, gained) / (1 + variance[best])
    return picked


def affordable(device: DeviceProfile, latency_ms: float) -> tuple[float, float]:
    """Least and most MACs that a latency could buy on a device of this kind."""
    slowest, fastest = CARD_MACS_PER_MS
    if device.runtime == "onnxruntime-cpu":
        slowest, fastest = THREAD_MACS_PER_MS[0], THREAD_MACS_PER_MS[1] * device.threads
    return slowest * latency_ms, fastest * latency_ms


def design(
    picture: Input, classes: int, limits: BudgetLimits, device: DeviceProfile, space: SpaceLimits, number: int
) -> list[Genome]:
    """`number` different genomes that inform most about latencies near the budget; any prefix is a design as well.

    They are chosen (see `chosen`) among random genomes whose MACs the budget could buy on any device of the kind,
    between the slowest and the fastest thought of: nothing has to be measured first, and the budget lies within. What a
    linear model sees of a genome are its features as shares of their sum, each in units of its mean, so that no
    device's speed enters.
    """
    rng = np.random.default_rng(0)
    drawn = list(dict.fromkeys(draw(space, rng, picture) for _ in range(DRAWS)))
    plans = [plan(genome, picture, classes) for genome in drawn]
    macs = np.log([count(p).macs for p in plans])
    least, most = np.log(affordable(device, limits.latency_ms))
    outside = np.maximum(0, np.maximum(least - macs, macs - most))
    near = np.argsort(outside, kind="stable")[: max(int((outside == 0).sum()), 5 * number)]
    edges = np.linspace(macs[near].min(), macs[near].max(), STRATA + 1)[1:-1]
    terms = np.stack([features(plans[i]) for i in near])
    in_means = terms / np.maximum(terms.mean(0), np.finfo(float).tiny)
    shares = in_means / in_means.sum(1, keepdims=True)
    return [drawn[near[i]] for i in chosen(shares, np.searchsorted(edges, macs[near]), min(number, len(near)))]
