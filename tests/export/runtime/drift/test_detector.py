"""The detector against counting in plain Python, and its false alarms against the stated rate."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import kstest

from export.runtime.drift import detector as module
from export.runtime.drift.detector import Alarm, Detector, watched
from export.runtime.errors import UsageError

NAMES = ("score", "brightness", "sharpness", "novelty")


def parts(rng: np.random.Generator, number: int) -> list[dict[str, float]]:
    """Dependent quantities of unlike distributions, one with many ties."""
    common = rng.standard_normal(number)
    columns = [
        np.exp(rng.standard_normal(number) + common - 6),
        120 + 5 * common,
        np.rint(10 + 2 * rng.standard_normal(number)).clip(0),
        rng.chisquare(3, number),
    ]
    return [dict(zip(NAMES, row, strict=True)) for row in np.stack(columns, axis=1).tolist()]


def reference(rng: np.random.Generator, number: int) -> dict[str, list[float]]:
    found = parts(rng, number)
    return {name: [part[name] for part in found] for name in NAMES}


def slow_statistic(known: list[float], stream: list[float], draws: list[float]) -> list[float]:
    """The mean of the Shiryaev-Roberts statistics after every part, by counting and as sums over the stakes' starts."""
    shifts, powers, normal = (0.25, 0.5, 1.0, 2.0), (0.2, 0.5), NormalDist()
    fortunes: list[list[float]] = []  # of every stake laid so far, by strategy
    found = []
    for number, (value, draw) in enumerate(zip(stream, draws, strict=True), start=1):
        seen = [float(np.float16(each)) for each in known + stream[:number]]
        own = float(np.float16(value))
        p = (sum(each > own for each in seen) + draw * sum(each == own for each in seen)) / len(seen)
        stakes = []
        for way in (p, 1 - p):
            z = normal.inv_cdf(1 - way)
            stakes += [math.exp(shift * z - shift**2 / 2) for shift in shifts]
            stakes += [power * way ** (power - 1) for power in powers]
        fortunes.append([1.0] * len(stakes))
        fortunes = [[had * stake for had, stake in zip(row, stakes, strict=True)] for row in fortunes]
        found.append(sum(map(sum, fortunes)) / len(stakes))
    return found


@pytest.mark.parametrize("size", [0, 60])
def test_an_alarm_comes_where_counting_in_plain_python_says(size: int) -> None:
    rng = np.random.default_rng(0)
    # Halves of whole numbers are exact in half precision, so that rounding to nearest and down agree.
    known = (np.rint(rng.normal(100, 4, size)) / 2).tolist()
    stream = (np.rint(np.concatenate([rng.normal(100, 4, 150), rng.normal(108, 4, 60)])) / 2).tolist()
    draws = np.random.default_rng((5, 0)).random((1024, 1))[1 : len(stream) + 1, 0].tolist()
    statistic = slow_statistic(known, stream, draws)
    first = next(part for part, value in enumerate(statistic, start=1) if value >= 500)
    detector = Detector({"brightness": known}, 500, seed=5)
    alarms = [alarm for value in stream[:first] for alarm in detector.add({"brightness": value})]
    assert [alarm.part for alarm in alarms] == [first]
    # A limit just above the statistic's largest value up to there raises none, one just below raises it there.
    for nudge, raised in ((1 + 1e-9, 0), (1 - 1e-9, 1)):
        exact = Detector({"brightness": known}, max(statistic[:first]) * nudge, seed=5)
        assert sum(len(exact.add({"brightness": value})) for value in stream[:first]) == raised


@pytest.mark.parametrize("size", [0, 60, 1000])
def test_p_values_of_exchangeable_parts_are_uniform_and_independent(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    stakes = module._stakes
    monkeypatch.setattr(module, "_stakes", lambda p: (seen.append(p), stakes(p))[1])
    rng = np.random.default_rng(1)
    for stream in range(5):
        detector = Detector(reference(rng, size), 1e9, seed=stream)
        for part in parts(rng, 500):
            detector.add(part)
    p = np.array(seen)
    assert p.shape == (2500, 4)
    assert min(kstest(column, "uniform").pvalue for column in p.T) > 1e-3
    assert max(abs(np.corrcoef(column[1:], column[:-1])[0, 1]) for column in p.T) < 4 / math.sqrt(len(p))


@pytest.mark.parametrize("size", [60, 1000])
def test_false_alarms_keep_to_the_stated_rate(size: int) -> None:
    rng, every, length = np.random.default_rng(2), 40, 800
    counts = []
    for stream in range(40):
        detector = Detector(reference(rng, size), every, seed=stream)
        counts.append(sum(len(detector.add(part)) for part in parts(rng, length)))
    mean, error = np.mean(counts), np.std(counts, ddof=1) / math.sqrt(len(counts))
    assert mean + 2 * error <= length / every
    assert mean > 0.1 * length / every, "so few alarms that nothing was tested"


def test_where_neighbours_are_alike_one_part_in_so_many_keeps_the_rate_and_finds_a_shift() -> None:
    rng, every, run = np.random.default_rng(7), 200, 5
    known = {"brightness": rng.normal(100, 4, 300).tolist()}
    numbers = dict.fromkeys((1, run), 0)
    for _ in range(10):
        runs = np.repeat(rng.normal(100, 4, 400), run)
        for one_in in numbers:
            numbers[one_in] += len(watched({"brightness": runs.tolist()}, known, every, one_in=one_in))
    promised = 10 * 400 * run / every
    assert numbers[run] < promised < numbers[1]
    moved = np.concatenate([rng.normal(100, 4, 2000), rng.normal(106, 4, 1000)])
    alarm = watched({"brightness": moved.tolist()}, known, 10_000, one_in=run)[0]
    assert 2000 < alarm.part < 2300 and alarm.part % run == 0
    assert abs(alarm.since - 2000) < 100
    assert alarm.now == pytest.approx(106, abs=3)


@pytest.mark.parametrize(("quantity", "direction", "factor"), [("brightness", "higher", 1.06), ("score", "lower", 0.2)])
def test_a_shift_is_found_soon_and_told(quantity: str, direction: str, factor: float) -> None:
    rng = np.random.default_rng(4)
    detector = Detector(reference(rng, 300))
    quiet = [alarm for part in parts(rng, 1000) for alarm in detector.add(part)]
    changed = [part | {quantity: part[quantity] * factor} for part in parts(rng, 1000)]
    alarms = [alarm for part in changed for alarm in detector.add(part)]
    assert quiet == []
    alarm = alarms[0]
    assert (alarm.quantity, alarm.direction) == (quantity, direction)
    assert 1000 < alarm.part < 1100
    assert abs(alarm.since - 1000) < 50
    assert alarm.before is not None
    assert alarm.now / alarm.before == pytest.approx(factor, rel=0.5 if quantity == "score" else 0.03)
    assert f"{quantity} is {direction} since about part {alarm.since:,}" in str(alarm)
    assert len(alarms) == 1, "one change is one alarm: the line is then compared with itself"


def test_the_way_back_is_an_alarm_of_its_own() -> None:
    rng = np.random.default_rng(5)
    detector = Detector({"brightness": rng.normal(100, 3, 300).tolist()})
    told = [
        alarm
        for middle in (100, 110, 100)
        for value in rng.normal(middle, 3, 500)
        for alarm in detector.add({"brightness": value})
    ]
    assert [(alarm.direction, round(alarm.now, -1)) for alarm in told] == [("higher", 110), ("lower", 100)]


def test_the_same_values_bring_back_the_same_state() -> None:
    rng = np.random.default_rng(6)
    known, stream = reference(rng, 100), parts(rng, 300)
    first, again = Detector(known, 50), Detector(known, 50)
    alarms: list[Alarm] = []
    for part in stream:
        alarms += first.add(part)
    assert alarms
    assert [alarm for part in stream for alarm in again.add(part)] == alarms
    more = parts(rng, 300)
    assert [first.add(part) for part in more] == [again.add(part) for part in more]


def test_far_values_overflow_nothing() -> None:
    detector = Detector({"novelty": [1.0] * 1000}, 1e12)
    alarms = [alarm for value in [1e300, 0.0] * 300 for alarm in detector.add({"novelty": value})]
    assert alarms == [] or all(math.isfinite(alarm.now) for alarm in alarms)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_values_that_are_no_measure_are_refused_and_change_nothing(value: float) -> None:
    detector = Detector({"score": [0.5], "novelty": [1.0]})
    with pytest.raises(UsageError, match="finite number"):
        detector.add({"score": 0.5, "novelty": value})
    with pytest.raises(UsageError, match="lacks a quantity"):
        detector.add({"score": 0.5})
    with pytest.raises(UsageError, match="finite number"):
        Detector({"score": [value]})
    assert detector.count == 0


@pytest.mark.parametrize(("known", "every"), [({}, 10.0), ({"score": [0.5]}, 0.0), ({"score": [0.5]}, math.nan)])
def test_settings_without_sense_are_refused(known: dict[str, list[float]], every: float) -> None:
    with pytest.raises(UsageError, match="cannot be watched"):
        Detector(known, every)
