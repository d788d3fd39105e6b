"""One network's ways to be asked, side by side: what the noise of the training gave, and what is left in one pass."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from export.runtime.decision import reject_scores, softmax
from factory.data.dataset import Dataset
from factory.profiles import LineProfile
from factory.swapout.network import Network
from factory.training.acceptance import threshold_for
from factory.training.compute import Compute
from factory.training.inference import infer
from factory.training.metrics import (
    Estimate,
    balanced_loss,
    bootstrap,
    calibration_error,
    escape,
    overkill,
    proportion,
)
from factory.training.paired import balanced_share, gain
from factory.training.pictures import Standard
from factory.workspace import write_array, write_json

SAMPLES: Final = 30
TIMED: Final = 32  # images a batch when the cost is measured
PLAIN, TRAINED, REESTIMATED, FINISHED, SAMPLED = (
    "plain, trained alike",
    "expectation, statistics of the training",
    "expectation, re-estimated",
    "finished and collapsed",
    f"{SAMPLES} samples",
)
Gaps = tuple[tuple[str, str], ...]  # who, over whom
GAPS: Final[Gaps] = ((FINISHED, SAMPLED), (FINISHED, TRAINED), (FINISHED, PLAIN))


@dataclass(frozen=True, slots=True)
class Mode:
    """A network and how many passes it is asked; None is one pass in expectation."""

    network: Network
    samples: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """Logits float32 (N, K) of the validation and of the test images; `ms` is what one image costs."""

    val: NDArray[np.float32]
    test: NDArray[np.float32]
    ms: float


@dataclass(frozen=True, slots=True)
class ModeRow:
    """One mode, or one network, on the test images; losses and calibration error count every class alike.

    Escape and overkill are at a threshold chosen for this mode on validation images; `ms` is the cost of one image in
    torch on one CPU thread, in batches of 32.
    """

    name: str
    accuracy: Estimate
    balanced_accuracy: Estimate
    loss: Estimate
    calibration_error: float
    escape: Estimate | None
    overkill: Estimate | None
    ms: float


@dataclass(frozen=True, slots=True)
class Gap:
    """What one mode has more than another, on the same test images."""

    name: str
    over: str
    balanced_accuracy: Estimate
    loss: Estimate


def _row(name: str, line: LineProfile, data: Dataset, asked: Asked) -> ModeRow:
    val, test = asked.val, asked.test
    truth, best = data.test.labels, test.argmax(axis=1)
    threshold, good = threshold_for(line, data.val, val), data.good
    escapes = overkills = None
    if good is not None and threshold is not None:
        rejected = reject_scores(softmax(test), line.classes.labels, line.classes.labels[good]) >= threshold
        escapes, overkills = escape(truth, rejected, good), overkill(truth, rejected, good)
    return ModeRow(
        name,
        proportion(int((best == truth).sum()), len(truth)),
        balanced_share(truth, best == truth),
        Estimate(balanced_loss(truth, test), *bootstrap(truth, lambda rows: balanced_loss(truth[rows], test[rows]))),
        calibration_error(truth, test),
        escapes,
        overkills,
        asked.ms,
    )


def gap(name: str, over: str, truth: NDArray[np.int64], one: NDArray[np.float32], other: NDArray[np.float32]) -> Gap:
    """Compare two sets of logits (N, K) of the same images, pair by pair."""
    rows = np.arange(len(truth))
    right = [(logits.argmax(axis=1) == truth).astype(np.float64) for logits in (one, other)]
    losses = [-log_softmax(logits.astype(np.float64), axis=1)[rows, truth] for logits in (one, other)]
    return Gap(name, over, gain((right[0] - right[1])[None], truth), gain((losses[0] - losses[1])[None], truth))


def cost(ask: Callable[[], object], images: int) -> float:
    """Milliseconds of an image, the median of five times asking of `images`; set torch to one thread before."""

    def once() -> float:
        start = time.perf_counter()
        ask()
        return time.perf_counter() - start

    once()
    return 1000 * median(once() for _ in range(5)) / images


def ask(mode: Mode, data: Dataset, norm: Standard, compute: Compute) -> Asked:
    """What a network says in one mode."""
    val, test = (infer(mode.network, part.images, norm, compute, mode.samples).logits for part in (data.val, data.test))
    few, alone = data.test.images[:TIMED], Compute("cpu", "float32", 1)
    return Asked(val, test, cost(lambda: infer(mode.network, few, norm, alone, mode.samples), len(few)))


def five(plain: Network, trained: Network, reestimated: Network, finished: Network) -> dict[str, Mode]:
    """The five rows of one genome: `plain` and `finished` are collapsed, the others have their Swapout layers."""
    return {
        PLAIN: Mode(plain),
        TRAINED: Mode(trained),
        REESTIMATED: Mode(reestimated),
        FINISHED: Mode(finished),
        SAMPLED: Mode(trained, SAMPLES),
    }


def compare(line: LineProfile, data: Dataset, asked: Mapping[str, Asked], gaps: Gaps, path: Path) -> None:
    """Write a row for each that was asked to the JSON file `path`, and the paired differences `gaps`."""
    rows = [_row(name, line, data, own) for name, own in asked.items()]
    found = [gap(name, over, data.test.labels, asked[name].test, asked[over].test) for name, over in gaps]
    document: dict[str, Any] = {"rows": [asdict(row) for row in rows], "gaps": [asdict(item) for item in found]}
    write_json(path, document)


def compare_modes(
    line: LineProfile,
    data: Dataset,
    modes: Mapping[str, Mode],
    norm: Standard,
    compute: Compute,
    folder: Path,
    tick: Callable[[], None],
) -> None:
    """Write modes.json: a row for each mode of `five`, and what the finished network has more than others.

    Beside it logits.npy: those of the test images, float32 (modes, N, K).
    """
    asked = {}
    for name, mode in modes.items():
        asked[name] = ask(mode, data, norm, compute)
        tick()
    write_array(folder / "logits.npy", np.stack([own.test for own in asked.values()]))
    compare(line, data, asked, GAPS, folder / "modes.json")
