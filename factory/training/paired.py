"""Two ways of deciding on the same images: what differs, and whether chance could make it."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from scipy.stats import t as student

from factory.training.metrics import BOOTSTRAP, Estimate, Labels

Flags = NDArray[np.bool_]


def balanced_share(truth: Labels, right: Flags) -> Estimate:
    """Mean over classes of the share that is right, with the interval of `metrics.bootstrap`.

    Resampled within its class, the number right is binomial: it is drawn as such, a thousand times faster.

    Args:
        truth: (N,) class indices.
        right: (N,).
    """
    own = [right[truth == label] for label in np.unique(truth)]
    sizes, shares = np.array([len(r) for r in own]), np.array([r.mean() for r in own])
    draws = (np.random.default_rng(0).binomial(sizes, shares, (BOOTSTRAP, len(own))) / sizes).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(float(shares.mean()), float(low), float(high))


def difference(truth: Labels, first: NDArray[np.generic], second: NDArray[np.generic]) -> Estimate:
    """Mean over classes of the mean of `second - first`, with its 95 % interval for paired values.

    A Wald interval whose variance counts half a pair more in each of the four cells of every class (Agresti and Min,
    Statistics in Medicine 24, 2005): where no pair differs it is not empty, as that of a bootstrap would be, and where
    few do it holds the truth as often as it says.

    Args:
        truth: (N,) classes, all the same for the plain mean.
        first: (N,) values from 0 to 1, such as whether the first was right.
        second: (N,) of the second.
    """
    change = second.astype(np.float64) - first.astype(np.float64)
    means, variances = [], []
    for label in np.unique(truth):
        own = change[truth == label]
        more = len(own) + 2  # a pair with no difference, half a pair each with 1 and with -1
        means.append(own.mean())
        variances.append((((own**2).sum() + 1) / more - (own.sum() / more) ** 2) / more)
    value, half = float(np.mean(means)), 1.96 * float(np.sqrt(np.sum(variances))) / len(means)
    return Estimate(value, max(-1.0, value - half), min(1.0, value + half))


def gain(values: NDArray[np.float64], truth: NDArray[np.int64], among: int = 1) -> Estimate:
    """Mean over classes of differences (seeds, images), with a 95 % interval over seeds and images alike.

    Seeds and images are two crossed samples; their variances add. Few seeds tell little of their own spread, so that
    part is as wide as Student's t says (a bootstrap of three seeds is far too sure).

    Args:
        values: (S, N) what each image adds with each seed.
        truth: (N,) class indices.
        among: as many intervals as are to hold together with 95 % (Bonferroni).
    """
    classes = [values[:, truth == label] for label in np.unique(truth)]
    by_seed = np.mean([own.mean(axis=1) for own in classes], axis=0)
    spread = sum(own.mean(axis=0).var(ddof=1) / own.shape[1] for own in classes if own.shape[1] > 1)
    tail, number = 1 - 0.025 / among, len(values)
    half = float(norm.ppf(tail)) * float(np.sqrt(spread)) / len(classes)
    if number > 1:
        half = float(np.hypot(half, student.ppf(tail, number - 1) * by_seed.std(ddof=1) / np.sqrt(number)))
    value = float(by_seed.mean())
    return Estimate(value, value - half, value + half)


def mcnemar(first: Flags, second: Flags) -> float:
    """Exact two-sided p-value that both are right equally often, of the images where one of them is, (N,) each.

    McNemar, Psychometrika 12, 1947: of the pairs that differ, half are expected on either side. 1 where none differs.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)
