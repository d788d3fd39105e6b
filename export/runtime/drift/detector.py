"""Sequential detection of drift with a stated rate of false alarms, for values of any distribution.

Each new value of a quantity gets a conformal p-value: its rank among the reference and all values seen so far, ties
broken at random. As long as all of them are exchangeable these p-values are independent and uniform, whatever the
distribution and however small the reference (Vovk, "Testing Randomness Online", Statistical Science 36(4), 2021).
Strategies bet on their being small or large: a stake of 1 is multiplied by a function e(p) whose mean over uniform p
is 1. Each sums the fortunes of stakes laid at every part, R = (R + 1) e(p), the Shiryaev-Roberts statistic; their mean
M is an e-detector (Shin, Ramdas, Rinaldo, "E-detectors: a nonparametric framework for sequential change detection",
New England Journal of Statistics in Data Science 2(2), 2024; with conformal p-values in Vovk's paper).

M grows by at most 1 a part in the mean. An alarm at M >= a, which sets M to 0, therefore takes away what a parts
gave: in any N parts a quantity alarms at most N / a times in the mean. With a = (number of quantities) c, all of them
together raise at most one false alarm in c parts in the mean. The bound holds for every N, and from the first part.

It holds for exchangeable parts: shuffled, they would be as likely. On a real line neighbours resemble each other, and
batch follows batch: a run of similar parts is then an alarm, and no false one, for the distribution did change for a
while, but one that nobody wants. Where such runs are short, watch one part in so many, more than a run has: those are
nearly exchangeable. And what comes from the line may differ from the validation pictures from the start, in the share
of defects for one. Therefore a quantity that has raised its alarm begins anew, with the parts that follow as its only
reference: one alarm a change, and thereafter the line is compared with itself.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from export.runtime.drift.bag import Bag
from export.runtime.errors import UsageError

__all__ = ["PARTS_BETWEEN_FALSE_ALARMS", "Alarm", "Detector", "Direction", "watched"]

Direction: TypeAlias = Literal["higher", "lower"]

PARTS_BETWEEN_FALSE_ALARMS: Final = 100_000

# Shifts, in standard deviations of a normal quantity, find what moves as a whole; powers, kappa p^(kappa - 1), find a
# small share of the parts that lies far out.
_SHIFTS: Final = np.array([0.25, 0.5, 1.0, 2.0])
_POWERS: Final = np.array([0.2, 0.5])
_EACH_WAY: Final = len(_SHIFTS) + len(_POWERS)

_LEAST_P: Final = 1e-12  # keeps every stake finite
_RECENT: Final = 500  # parts of which an alarm says where the values lie now
_DRAWS: Final = 1024  # random numbers drawn at a time
_normal_quantile = NormalDist().inv_cdf


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A quantity is not distributed as before.

    ``part`` is the count of the part that raised it, the first part being 1, and ``since`` about the first one that
    differs; ``before`` and ``now`` are the medians in front of it and from there on (None where nothing was in front).
    """

    quantity: str
    direction: Direction
    part: int
    since: int
    before: float | None
    now: float

    def __str__(self) -> str:
        then = "" if self.before is None else f"median {self.before:.4g} before, "
        return f"{self.quantity} is {self.direction} since about part {self.since:,}: {then}{self.now:.4g} now"


class Detector:
    """Watches several quantities at once; a pure function of the reference, the settings and the values added.

    ``reference`` holds the values of every quantity on pictures that the network was not trained on, in any order and
    number, also none. In place of ties being broken by chance stand pseudo-random numbers of (seed, count of the part),
    so that the same values added again bring the detector into the same state. Only one part in ``one_in`` is looked
    at; the others are counted, and the promise is for parts counted.

    Raises UsageError where a value is not finite or below 0, or no quantity is named, or a number is not above 0.
    """

    def __init__(
        self,
        reference: Mapping[str, Sequence[float]],
        parts_between_false_alarms: float = PARTS_BETWEEN_FALSE_ALARMS,
        *,
        one_in: int = 1,
        seed: int = 0,
    ) -> None:
        if not reference or not parts_between_false_alarms > 0 or one_in < 1:
            raise UsageError(
                "drift cannot be watched like this",
                expected="at least one quantity, parts between false alarms, and one part in so many, above 0",
                found=f"{len(reference)} quantities, {parts_between_false_alarms} parts, one in {one_in}",
            )
        self.quantities: Final = tuple(reference)
        self.count = 0
        self._limit = parts_between_false_alarms * len(reference) / one_in
        self._one_in = one_in
        self._seed = seed
        self._draws = np.empty((0, 0))
        self._bag = Bag(len(reference))
        for row, name in enumerate(self.quantities):
            self._bag.fill(row, _sound(reference[name]))
        strategies = (len(reference), 2 * _EACH_WAY)
        self._sums = np.zeros(strategies)  # R of every strategy, (quantities, strategies)
        self._best = np.zeros(strategies)  # the fortune of the luckiest stake, and when it was laid
        self._since = np.zeros(strategies, np.int64)
        self._recent: deque[NDArray[np.float64]] = deque(maxlen=_RECENT)
        self._begun = np.zeros(len(reference), np.int64)  # the count when a quantity last began anew

    def add(self, values: Mapping[str, float]) -> tuple[Alarm, ...]:
        """Take the values of the next part; return the alarms that they raise, most often none.

        Raises UsageError where a quantity is missing or its value not finite or below 0; the state is then unchanged.
        """
        if not values.keys() >= set(self.quantities):
            found = ", ".join(values)
            raise UsageError("a part lacks a quantity", expected=", ".join(self.quantities), found=found or "none")
        row = _sound([values[name] for name in self.quantities])
        self.count += 1
        if self.count % self._one_in:
            return ()
        self._recent.append(row)
        stakes = _stakes(self._p_values(row))
        self._since = np.where(self._best <= 1, self.count, self._since)
        self._best = np.maximum(self._best, 1) * stakes
        self._sums = (self._sums + 1) * stakes
        return tuple(self._alarm(int(row)) for row in np.flatnonzero(self._sums.mean(axis=1) >= self._limit))

    def _p_values(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        larger, equal, size = self._bag.add(row)
        block, place = divmod(self.count, _DRAWS)
        if place == 0 or not len(self._draws):
            self._draws = np.random.default_rng((self._seed, block)).random((_DRAWS, len(row)))
        p: NDArray[np.float64] = (larger + self._draws[place] * equal) / size
        return p.clip(_LEAST_P, 1 - _LEAST_P)

    def _alarm(self, row: int) -> Alarm:
        best = int(self._sums[row].argmax())
        since = max(int(self._since[row, best]), int(self._begun[row]) + 1)
        watched_since = (self.count - since) // self._one_in + 1
        recent = [values[row] for values in self._recent][-watched_since:]
        alarm = Alarm(
            quantity=self.quantities[row],
            direction="higher" if best < _EACH_WAY else "lower",
            part=self.count,
            since=since,
            before=self._bag.median(row, without=recent),
            now=float(np.median(recent)),
        )
        self._bag.empty(row)
        self._sums[row] = self._best[row] = 0
        self._begun[row] = self.count
        return alarm


def watched(
    values: Mapping[str, Sequence[float]],
    reference: Mapping[str, Sequence[float]],
    parts_between_false_alarms: float = PARTS_BETWEEN_FALSE_ALARMS,
    *,
    one_in: int = 1,
) -> list[Alarm]:
    """Return the alarms of a new detector over parts that were logged; raises as ``Detector`` does."""
    detector = Detector(reference, parts_between_false_alarms, one_in=one_in)
    columns = [values[name] for name in detector.quantities]
    return [
        alarm
        for row in zip(*columns, strict=True)
        for alarm in detector.add(dict(zip(detector.quantities, row, strict=True)))
    ]


def _stakes(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a stake of 1 becomes by p-values (Q,), first for betting on higher values, then lower: (Q, strategies)."""
    ways = np.stack([p, 1 - p], axis=1)[..., None]
    up = np.array([-_normal_quantile(each) for each in p])
    z = np.stack([up, -up], axis=1)[..., None]
    bets = [np.exp(_SHIFTS * z - _SHIFTS**2 / 2), _POWERS * ways ** (_POWERS - 1)]
    return np.concatenate(bets, axis=2).reshape(len(p), -1)


def _sound(values: Sequence[float]) -> NDArray[np.float64]:
    numbers = np.asarray(values, np.float64)
    wrong = numbers[~(np.isfinite(numbers) & (numbers >= 0))]
    if wrong.size:
        raise UsageError(
            "a value cannot be watched for drift", expected="a finite number from 0 on", found=f"{wrong[0]}"
        )
    return numbers
