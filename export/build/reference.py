"""What a bundle tells the station of the usual: familiar pictures, values to compare with, the band of review."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from export.runtime.drift.novelty import Novelty
from export.runtime.drift.reference import QUANTITIES, Familiar, Reference, Values
from export.runtime.drift.statistics import Gauge, Statistics
from export.runtime.manifest import Band

Frames = NDArray[np.uint8]
Real = NDArray[np.float64]

CENTRES: Final = 256
MOST_VALUES: Final = 2000
LEAST_SCALE: Final = 0.02  # of grey levels or of a logarithm: below lies what decoders of JPEG disagree about
_SEED: Final = 0


@dataclass(frozen=True)
class Looks:
    """How validation pictures look: their statistics and novelty."""

    statistics: Sequence[Statistics]
    novelty: Real


def measured(frames: Frames) -> list[Statistics]:
    """Return the statistics of frames (N, H, W, C)."""
    gauge = Gauge(*frames.shape[1:])
    return [gauge.measure(frame) for frame in frames]


def familiar(train: Frames, val: Frames, share: float) -> tuple[Familiar, Looks]:
    """Return what training frames (N, H, W, C) look like, and how validation frames look beside them.

    The centres are those of k-means (Lloyd 1982), 256 or as many as there are different pictures. The limit is the
    conformal quantile of the validation novelty: of pictures exchangeable with the validation pictures at most the
    share lies above it (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005, section 4.2). Where
    that would take more validation pictures than there are, it is the largest, and the share 1 / (N + 1).
    """
    vectors = np.array([own.vector for own in measured(train)])
    mean, scale = vectors.mean(axis=0), np.maximum(vectors.std(axis=0), LEAST_SCALE)
    places = (vectors - mean) / scale
    number = min(CENTRES, len(np.unique(places, axis=0)))
    with threadpool_limits(1):  # threads add up in any order, and the same run would not end the same
        centres = KMeans(number, n_init=1, random_state=_SEED).fit(places).cluster_centers_
    told = Familiar(mean=_told(mean), scale=_told(scale), centres=tuple(map(_told, centres)), limit=math.inf)
    looks = measured(val)
    novelty = np.array([Novelty(told).of(own) for own in looks])
    rank = min(len(novelty), quantile_rank(len(novelty), share))
    limit = float(np.sort(novelty)[rank - 1])
    return Familiar(mean=told.mean, scale=told.scale, centres=told.centres, limit=limit), Looks(looks, novelty)


def quantile_rank(number: int, share: float) -> int:
    """Rank, from 1 for the smallest, of the value that a further one exceeds with at most this probability.

    Above ``number``, there are too few values to tell.
    """
    return math.ceil((number + 1) * (1 - share) - 1e-9)


def reference(told: Familiar, looks: Looks, scores: Sequence[float]) -> Reference:
    """Return the content of the reference file; ``scores`` (N,) are those of the same validation pictures.

    Where there are more than 2,000, values are drawn at random: thinned by rank they would lie more evenly than later
    ones can, and drift is told by comparing ranks.
    """
    own: Mapping[str, Sequence[float]] = {
        "score": scores,
        "brightness": [each.brightness for each in looks.statistics],
        "sharpness": [each.sharpness for each in looks.statistics],
        "novelty": looks.novelty.tolist(),
    }
    drawn = np.random.default_rng(_SEED).permutation(len(scores))[:MOST_VALUES]
    values = {name: _told(np.sort(np.asarray(own[name])[drawn])) for name in QUANTITIES}
    return Reference(familiar=told, values=Values(**values))


def review_band(scores: Real, threshold: float, share: float) -> Band | None:
    """Return the band that holds this share of reject scores (N,), those nearest to the threshold in log-odds.

    It is as wide in log-odds below the threshold as above it. None for a share of 0.
    """
    number = math.ceil(share * len(scores) - 1e-9)
    if number == 0:
        return None
    odds, middle = logit(np.clip(scores, 1e-12, 1 - 1e-12)), float(logit(threshold))
    distance = np.abs(odds - middle)
    width = float(np.sort(distance)[number - 1])
    held = scores[distance <= width]  # rounding must not leave out the one that sets the width
    low, high = float(expit(middle - width)), float(expit(middle + width))
    return Band(low=min(low, threshold, *held.tolist()), high=max(high, threshold, *held.tolist()))


def _told(values: Sequence[float] | Real) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)
