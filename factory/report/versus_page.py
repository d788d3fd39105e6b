"""The page of a comparison: two bundles on the same test images, in one HTML file that needs nothing beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factory.report.page import picture, template

MOST_PICTURES = 24

Interval = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """One bundle; latency as measured when it was made, on `device`."""

    bundle: str
    folder: str
    line: str
    created: str
    device: str
    picture: str
    latency_ms: float | None
    size_mb: float


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One share, 0 to 1, of A, of B, and B minus A, with 95 % intervals; `p` of McNemar's test on its images."""

    name: str
    a: Interval
    b: Interval
    difference: Interval
    p: float | None


@dataclass(frozen=True, slots=True)
class Apart:
    """A test image, uint8 (H, W) or (H, W, 3), on which A and B decide otherwise."""

    image: npt.NDArray[np.uint8]
    truth: str
    a: str
    b: str
    a_right: bool
    b_right: bool
    path: str


@dataclass(frozen=True, slots=True)
class VersusReport:
    """All that the page shows; `pictures` are at most MOST_PICTURES of the `differ` images."""

    line: str
    created: str
    tool_version: str
    good: str | None
    sentence: str
    notes: list[str]
    bundles: tuple[BundleFacts, BundleFacts]
    figures: list[FigureRow]
    both_right: int
    only_a: int
    only_b: int
    both_wrong: int
    p: float
    differ: int
    pictures: list[Apart]


def render(report: VersusReport) -> str:
    """The whole page; the same report gives the same text."""
    return template("versus.html.j2").render(
        r=report, pictures=[(apart, picture(np.atleast_3d(apart.image))) for apart in report.pictures]
    )
