"""What an inspection is judged by: escape, overkill, recalls, AUROC, with 95 % intervals."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import beta, binomtest
from sklearn.metrics import roc_auc_score

Labels = NDArray[np.int64]
BOOTSTRAP = 1000
BINS = 15  # of the calibration error
LARGEST_TEMPERATURE = 20.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def proportion(hits: int, total: int) -> Estimate:
    """A share with its Wilson interval (Wilson 1927)."""
    interval = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    return Estimate(hits / total, float(interval.low), float(interval.high))


def balanced_accuracy(truth: Labels, decided: Labels) -> float:
    """Mean recall over the classes present in `truth`."""
    return float(np.mean([np.mean(decided[truth == label] == label) for label in np.unique(truth)]))


def balanced_loss(truth: Labels, logits: NDArray[np.float32]) -> float:
    """Negative log-likelihood, averaged within each class and then over classes, in nats."""
    losses = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(truth)), truth]
    return float(np.mean([losses[truth == label].mean() for label in np.unique(truth)]))


def class_weights(truth: Labels) -> NDArray[np.float64]:
    """Weights (N,) that sum to 1 and count every class alike."""
    labels, inverse, counts = np.unique(truth, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1 / (len(labels) * counts[inverse])
    return weights


def calibration_error(truth: Labels, logits: NDArray[np.float32]) -> float:
    """Expected calibration error of the most probable class over 15 equal bins (Guo et al. 2017, section 2).

    Every class counts alike, as in `balanced_loss`; where classes are equally frequent this is the usual figure.
    """
    probabilities = softmax(logits, axis=1)
    confidence, weights = probabilities.max(axis=1), class_weights(truth)
    surplus = weights * (confidence - (probabilities.argmax(axis=1) == truth))
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(bins, surplus, BINS)).sum())


def temperature(truth: Labels, logits: NDArray[np.float32]) -> float:
    """The one number to divide logits (N, K) by that makes them fit `truth` best (Guo et al. 2017, section 4.2).

    Every class counts alike. The true class of one with n images is held to be true with (n + 1) / (n + 2) only
    (Platt 1999, section 2.2): on images that are all decided rightly the best certainty would else be infinite.
    """
    wide, classes = logits.astype(np.float64), logits.shape[1]
    counts = np.bincount(truth, minlength=classes)[truth]
    targets = np.repeat(1 / ((counts + 2) * (classes - 1)), classes).reshape(wide.shape)
    targets[np.arange(len(truth)), truth] = (counts + 1) / (counts + 2)
    targets *= class_weights(truth)[:, None]

    def loss(log_temperature: float) -> float:
        return -float((targets * log_softmax(wide / np.exp(log_temperature), axis=1)).sum())

    bound = np.log(LARGEST_TEMPERATURE)
    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x))


def auroc(truth: Labels, scores: NDArray[np.float64], good: int | None) -> float:
    """Area under the ROC of the reject score 1 - p[good]; without a good class the mean over one-against-rest.

    Args:
        truth: (N,) class indices.
        scores: (N, K) probabilities.
        good: index of the good class, or None.
    """
    if good is not None:
        return float(roc_auc_score(truth != good, 1 - scores[:, good]))
    return float(np.mean([roc_auc_score(truth == k, scores[:, k]) for k in range(scores.shape[1])]))


def bootstrap(truth: Labels, statistic: Callable[[Labels], float], seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a statistic of resampled rows, resampled within each class."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(truth == label) for label in np.unique(truth)]
    values = [statistic(np.concatenate([rng.choice(own, len(own)) for own in rows])) for _ in range(BOOTSTRAP)]
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def allowed_escapes(defects: int, escape_max: float) -> int:
    """Most escapes among `defects` that still show, with 95 % one-sided confidence, an escape rate of `escape_max`.

    Clopper and Pearson 1934. A threshold that just meets the limit on the images it was chosen on would miss it on
    every second set of new ones. Where the images are too few to show it at all, no escape is allowed.
    """
    escapes = np.arange(defects)
    upper = beta.ppf(0.95, escapes + 1, defects - escapes)
    return max(0, int(np.count_nonzero(upper <= escape_max)) - 1)


def operating_threshold(truth: Labels, reject_scores: NDArray[np.float64], good: int, escape_max: float) -> float:
    """The largest threshold, which costs least overkill, that lets at most `allowed_escapes` defects pass.

    A part is rejected when its reject score reaches the threshold. The threshold lies half-way between the score of
    the last defect it catches and the next lower score, so that rounding at the station does not decide.

    Args:
        truth: (N,) class indices with at least one defect.
        reject_scores: (N,) 1 - p[good], in [0, 1].
        good: index of the good class.
        escape_max: the profile's limit on the share of defects that pass.
    """
    defects = np.sort(reject_scores[truth != good])
    caught_last = defects[allowed_escapes(len(defects), escape_max)]
    below = reject_scores[reject_scores < caught_last]
    next_lower = below.max() if len(below) else 0.0
    return float(np.clip((caught_last + next_lower) / 2, np.finfo(np.float64).tiny, np.nextafter(1, 0)))


def escape(truth: Labels, rejected: NDArray[np.bool_], good: int) -> Estimate:
    """Share of defective parts that pass."""
    defective = truth != good
    return proportion(int((defective & ~rejected).sum()), int(defective.sum()))


def overkill(truth: Labels, rejected: NDArray[np.bool_], good: int) -> Estimate:
    """Share of good parts that are rejected."""
    own = truth == good
    return proportion(int((own & rejected).sum()), int(own.sum()))
