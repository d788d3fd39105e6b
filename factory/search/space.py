"""Can the budgets be met at all: what the line's space offers in every budgeted quantity."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from export.runtime.errors import GateError
from factory.profiles import BudgetLimits, SpaceLimits
from factory.search.candidate import Costs, Pricing
from factory.spaces.residual import STEM_WIDTHS, Genome, Kind, Stage, fits_input
from factory.spaces.restriction import EVERYTHING, draw, genome_count

SAMPLE: Final = 2000
NARROW: Final[dict[Kind, int]] = {"basic": 1, "bottle": 4, "mb": 2}  # the expansion that makes a block smallest


@dataclass(frozen=True, slots=True)
class SpaceReport:
    """Costs of a random sample of the space, of its smallest networks, and of those of both that keep the limits."""

    sample: tuple[Costs, ...]
    smallest: tuple[Costs, ...]
    feasible: tuple[Costs, ...]
    feasible_share: float
    limits: BudgetLimits
    space: SpaceLimits = EVERYTHING

    @property
    def satisfiable(self) -> bool:
        """Whether any network keeps the budgets."""
        return bool(self.feasible)

    def require(self) -> None:
        """Refuse budgets that cannot be kept.

        Raises:
            GateError: saying which is the tightest.
        """
        if not self.satisfiable:
            message = f"no network of the space keeps the budgets of {self.limits.device}"
            raise GateError(message, found=self.tightest(), fix="raise that budget")

    def quantities(self) -> dict[str, dict[str, float | None]]:
        """Minimum, median and maximum of size, latency (its upper bound), MACs and parameters; and the limits."""
        everything = (*self.sample, *self.smallest)
        columns = {
            "size_mb": ([c.size_mb for c in everything], self.limits.size_mb),
            "latency_ms": ([c.latency_upper_ms for c in everything], self.limits.latency_ms),
            "mmacs": ([c.macs / 1e6 for c in everything], None),
            "params": ([float(c.params) for c in everything], None),
        }
        return {
            name: {"min": min(v), "median": float(np.median(v)), "max": max(v), "limit": limit}
            for name, (v, limit) in columns.items()
        }

    def as_json(self) -> dict[str, Any]:
        """The document of `factory space --json`."""
        return {
            "genomes": genome_count(self.space),
            "feasible_share": self.feasible_share,
            "satisfiable": self.satisfiable,
            "quantities": self.quantities(),
        }

    def tightest(self) -> str:
        """Which budget the space is furthest from, and what could be reached."""
        q = self.quantities()
        reach = {name: float(q[name]["min"] or 0) for name in ("latency_ms", "size_mb")}
        limits = {"latency_ms": self.limits.latency_ms, "size_mb": self.limits.size_mb}
        name = max(reach, key=lambda n: reach[n] / limits[n])
        return (
            f"{name} is the tightest: the limit is {limits[name]:g}, the least that can be reached is {reach[name]:.4g}"
        )


def smallest_genomes(pricing: Pricing) -> list[Genome]:
    """The least networks the line's space can write: narrowest, shallowest, of each kind and stride."""
    space = pricing.space
    width, depth, kernel = min(space.widths), min(space.depths), min(space.kernels)
    stages = [Stage(kind, width, depth, kernel, NARROW[kind], 2) for kind in space.kinds]
    pairs = [(first, second) for first in stages for second in stages]
    genomes = [Genome(STEM_WIDTHS[0], stride, pair) for stride in space.stem_strides for pair in pairs]
    return [g for g in genomes if fits_input(g, pricing.picture)]


def survey(pricing: Pricing, seed: int = 0) -> SpaceReport:
    """Price a random sample of the space and its smallest networks."""
    rng = np.random.default_rng(seed)
    sample = [pricing.costs(draw(pricing.space, rng, pricing.picture)) for _ in range(SAMPLE)]
    smallest = [pricing.costs(g) for g in smallest_genomes(pricing)]
    share = sum(map(pricing.keeps, sample)) / SAMPLE
    feasible = tuple(filter(pricing.keeps, (*sample, *smallest)))
    return SpaceReport(tuple(sample), tuple(smallest), feasible, share, pricing.limits, pricing.space)
