"""How soon is drift told, and how often without any?

    python -m tests.benchmarks drift [--seeds 20]

NEU steel at 48 x 48 (profile steel-surface): pictures that a small network, trained here on the training pictures for
twelve epochs, has not seen. A stream draws parts from them at random; the reference is 360 such draws; so without
drift the parts are exchangeable. Then the light fails or the lens loses its focus, at once or little by little. The
score is that of the network on the changed pictures, novelty and the rest are those of a bundle fitted on the training
pictures. Beside the detector: a two-sample Kolmogorov-Smirnov test (scipy) of the last 100 parts against the reference,
every ten parts, the largest of the four quantities, at a threshold that was set on null streams to alarm as rarely as
the detector promises.
"""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp

from export.build.reference import familiar, measured
from export.runtime.decision import softmax
from export.runtime.drift.detector import PARTS_BETWEEN_FALSE_ALARMS, Detector
from export.runtime.drift.novelty import Novelty
from export.runtime.drift.reference import QUANTITIES
from factory.profiles import load_line
from factory.spaces.network import build
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan
from factory.training.full import recipe_of
from factory.training.loop import fit
from factory.training.pictures import predict, standard
from tests.benchmarks.modes import COMPUTE
from tests.benchmarks.novelty import load_whole

Images = NDArray[np.uint8]
Real = NDArray[np.float64]

GENOME: Final = "stem_w8_s2-basic_w16_d1_k3_e1_s2-basic_w32_d1_k3_e1_s2"
EPOCHS: Final = 12
KNOWN: Final = 360  # values of the reference
BEFORE: Final = 1000  # parts before the drift
AFTER: Final = 4000
WINDOW: Final = 100
EVERY: Final = 10
NULL_PARTS: Final = 5000  # of one null stream
NULL_STREAMS: Final = 200
LIGHT: Final = (0.0, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2)  # share lost
FOCUS: Final = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5)  # standard deviation of the blur, in pixels
STEPS: Final = {"light": (0.02, 0.05, 0.1, 0.2), "focus": (0.3, 0.4, 0.6, 1.0)}
RAMPS: Final = {"light": ((0.1, 1000), (0.1, 4000)), "focus": ((0.8, 1000), (0.8, 4000))}


def _darker(images: Images, lost: float) -> Images:
    return np.rint(images * (1 - lost)).astype(np.uint8)


def _blurred(images: Images, sigma: float) -> Images:
    if sigma == 0:
        return images
    return np.rint(gaussian_filter(images.astype(np.float64), (0, sigma, sigma, 0))).astype(np.uint8)


def _tables() -> tuple[dict[str, Real], NDArray[np.int64]]:
    """By kind of drift: values (levels, pictures, quantities) of the pictures not trained on; and their classes."""
    data, (profile, _) = load_whole("steel-surface"), load_line("steel-surface")
    norm, shape = standard(data.train.images), Input(*data.train.images.shape[1:])
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        network = build(plan(parse(GENOME), shape, len(data.labels)))
        recipe = recipe_of(profile.training, EPOCHS)
        fit(network, data.train, data.val, norm, recipe, COMPUTE, Path(folder) / "fit", lambda _: None)
    told, _ = familiar(data.train.images, data.val.images, 0.005)
    novelty = Novelty(told)
    pool = np.concatenate([data.val.images, data.test.images])
    truth = np.concatenate([data.val.labels, data.test.labels])

    def values(images: Images) -> Real:
        scores, looks = softmax(predict(network, images, norm, COMPUTE)).max(axis=1), measured(images)
        return np.array([(p, s.brightness, s.sharpness, novelty.of(s)) for p, s in zip(scores, looks, strict=True)])

    right = (predict(network, pool, norm, COMPUTE).argmax(axis=1) == truth).mean()
    print(f"network {GENOME}: right on {right:.1%} of {len(pool)} pictures not trained on\n", flush=True)
    tables = {
        "light": np.array([values(_darker(pool, level)) for level in LIGHT]),
        "focus": np.array([values(_blurred(pool, level)) for level in FOCUS]),
    }
    return tables, truth


def _drawn(table: Real, rng: np.random.Generator, levels: NDArray[np.intp]) -> Real:
    """Parts (N, quantities) drawn from the pictures, each at its level of drift."""
    found: Real = table[levels, rng.integers(0, table.shape[1], len(levels))]
    return found


def _by_name(values: Real) -> dict[str, list[float]]:
    return {name: values[:, column].tolist() for column, name in enumerate(QUANTITIES)}


def _alarms(known: Real, parts: Real, every: float, seed: int, one_in: int = 1) -> Iterator[tuple[int, str]]:
    """Parts, from 0, at which the detector alarms, and the quantity."""
    detector = Detector(_by_name(known), every, one_in=one_in, seed=seed)
    for part, row in enumerate(parts.tolist()):
        for alarm in detector.add(dict(zip(QUANTITIES, row, strict=True))):
            yield part, alarm.quantity


def _distance(known: Real, window: Real) -> float:
    """The Kolmogorov-Smirnov statistic of two sorted samples."""
    both = np.concatenate([known, window])
    below = (np.searchsorted(own, both, side="right") / len(own) for own in (known, window))
    return float(np.abs(np.subtract(*below)).max())


def _distances(known: Real, parts: Real) -> Iterator[tuple[int, float]]:
    """The largest statistic of the quantities at every tenth part, once the window is full."""
    known = np.sort(known, axis=0)
    for part in range(WINDOW - 1, len(parts), EVERY):
        window = np.sort(parts[part - WINDOW + 1 : part + 1], axis=0)
        yield part, max(_distance(known[:, column], window[:, column]) for column in range(len(QUANTITIES)))


def _null(table: Real) -> float:
    """Print the alarms without drift; return the threshold at which the windowed test alarms as rarely as promised."""
    streams = []
    for seed in range(NULL_STREAMS):
        rng = np.random.default_rng([1, seed])
        streams.append((_drawn(table, rng, np.zeros(KNOWN, int)), _drawn(table, rng, np.zeros(NULL_PARTS, int))))
    parts = NULL_STREAMS * NULL_PARTS
    print("| without drift | promised, at most | false alarms |\n|---|---|---|")
    for every in (1000, PARTS_BETWEEN_FALSE_ALARMS):
        number = sum(len(list(_alarms(*stream, every, seed))) for seed, stream in enumerate(streams))
        print(f"| detector, one in {every:,} parts | {parts / every:,.0f} in {parts:,} | {number:,} |", flush=True)
    largest = sorted((max(d for _, d in _distances(*stream)) for stream in streams), reverse=True)
    allowed = parts // PARTS_BETWEEN_FALSE_ALARMS
    print(f"| windowed test at D > {largest[allowed]:.3f} | set to {allowed} streams | {allowed} |")
    return largest[allowed]


def _batches(table: Real, truth: NDArray[np.int64], run: int, one_in: int) -> None:
    """Print the alarms where parts come in runs of one class, which is not exchangeable, and all else stays."""
    number, streams = 0, 40
    for seed in range(streams):
        rng = np.random.default_rng([2, seed])
        kinds = np.repeat(rng.integers(0, truth.max() + 1, NULL_PARTS // run), run)
        rows = np.array([rng.choice(np.flatnonzero(truth == kind)) for kind in kinds])
        known = _drawn(table, rng, np.zeros(KNOWN, int))
        number += len(list(_alarms(known, table[0][rows], PARTS_BETWEEN_FALSE_ALARMS, seed, one_in)))
    total = streams * NULL_PARTS
    looked = "" if one_in == 1 else f", looking at one part in {one_in}"
    print(f"| the same, runs of {run} of one class{looked} | none | {number:,} in {total:,} |", flush=True)


def _told(found: list[float]) -> str:
    """Median and 90 % quantile of delays in parts; infinite where nothing was told."""
    middle, most = (np.quantile(found, share, method="higher") for share in (0.5, 0.9))
    return " / ".join("none" if math.isinf(value) else f"{value:.0f}" for value in (middle, most))


def _delays(table: Real, levels: NDArray[np.intp], threshold: float, seeds: int) -> tuple[str, str, str]:
    """Delays of detector and windowed test, and which quantity the detector told first, most often."""
    ours, theirs, names = [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng([3, seed])
        known = _drawn(table, rng, np.zeros(KNOWN, int))
        parts = _drawn(table, rng, np.concatenate([np.zeros(BEFORE, int), levels]))
        alarms = [(part, name) for part, name in _alarms(known, parts, PARTS_BETWEEN_FALSE_ALARMS, seed)]
        later = next(((part, name) for part, name in alarms if part >= BEFORE), (math.inf, ""))
        ours.append(later[0] - BEFORE + 1)
        names.append(later[1])
        part = next((p for p, d in _distances(known, parts) if p >= BEFORE and d > threshold), math.inf)
        theirs.append(part - BEFORE + 1)
    most = max(set(names), key=names.count)
    return _told(ours), _told(theirs), f"{most or 'none'} ({names.count(most)} of {seeds})"


def _level(kind: str, amount: float) -> int:
    return (LIGHT if kind == "light" else FOCUS).index(amount)


def main(seeds: int = 20) -> None:
    """Print the false alarms and the delays, median and 90 % quantile, in parts."""
    first, second = np.random.default_rng(0).random(50), np.random.default_rng(1).random(70)
    assert math.isclose(_distance(np.sort(first), np.sort(second)), ks_2samp(first, second).statistic)
    tables, truth = _tables()
    threshold = _null(tables["light"])
    for run, one_in in ((5, 1), (5, 5), (20, 1), (20, 20)):
        _batches(tables["light"], truth, run, one_in)
    print("\n| drift | detector: median / 90 % | first told by | windowed test: median / 90 % |\n|---|---|---|---|")

    def tell(name: str, kind: str, levels: NDArray[np.intp]) -> None:
        ours, theirs, quantity = _delays(tables[kind], levels, threshold, seeds)
        print(f"| {name} | {ours} | {quantity} | {theirs} |", flush=True)

    unit = {"light": lambda amount: f"{amount:.0%} of the light lost", "focus": lambda a: f"blurred by {a:g} pixels"}
    for kind, amounts in STEPS.items():
        for amount in amounts:
            tell(f"{unit[kind](amount)}, at once", kind, np.full(AFTER, _level(kind, amount)))
    for kind, ramps in RAMPS.items():
        for amount, over in ramps:
            top = _level(kind, amount)
            rising = np.interp(np.arange(AFTER), [0, over], [0, amount])
            steps = (LIGHT if kind == "light" else FOCUS)[: top + 1]
            levels = np.searchsorted(steps, rising, side="right") - 1
            tell(f"{unit[kind](amount)}, within {over:,} parts", kind, levels)
