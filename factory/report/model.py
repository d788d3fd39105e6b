"""What a run says of itself: plain values, ready to be shown.

Shares (accuracies, escape, overkill, recall and their bounds) run from 0 to 1 and are shown in percent,
times of inference are milliseconds, sizes are megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Budget:
    """What was asked of the network on the device, what the cost model foretold and what came out."""

    name: Literal["latency", "size"]
    unit: Literal["ms", "MB"]
    limit: float | None
    predicted: float | None
    measured: float
    passed: bool


@dataclass(frozen=True, slots=True)
class SearchPoint:
    """One network scored without training; `score` is what the search ranked by; all finite."""

    genome: str
    score: float
    swap: float
    latency_ms: float
    size_mb: float
    on_front: bool


@dataclass(frozen=True, slots=True)
class ShortlistRow:
    """One network trained for a short while; the balanced accuracy is that of the validation images."""

    genome: str
    role: Literal["candidate", "reference"]
    score: float
    saturation: float
    latency_ms: float
    size_mb: float
    params: int
    balanced_accuracy: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class Curve:
    """One training; the balanced accuracy is None at epochs that were not validated. Equal lengths."""

    name: str
    epochs: list[int]
    loss: list[float]
    balanced_accuracy: list[float | None]


@dataclass(frozen=True, slots=True)
class AcceptanceRow:
    """One number of the acceptance test with its confidence interval.

    `unit` says how numbers read: "%" for shares from 0 to 1, "" for bare numbers such as an AUROC,
    anything else is written behind them. A row without a limit, or not judged, has `passed` None.
    """

    metric: str
    value: float | None
    low: float | None
    high: float | None
    limit: str | None
    passed: bool | None
    unit: str = "%"


@dataclass(frozen=True, slots=True)
class ClassRow:
    """Recall of one class on the test images, with its confidence interval."""

    label: str
    images: int
    recall: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """One way of deciding, judged on the same test images; None where the number does not exist."""

    name: str
    balanced_accuracy: float
    auroc: float | None
    escape: float | None
    overkill: float | None
    latency_ms: float | None
    size_mb: float | None
    delivered: bool


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrongly decided test image: uint8 (H, W, C) with C 1 or 3, and the score it was decided by."""

    image: npt.NDArray[np.uint8]
    truth: str
    decided: str
    score: float
    path: str


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage of the run, the digest of what it made, and whether an earlier result was taken over."""

    name: str
    digest: str
    seconds: float
    reused: bool


@dataclass(frozen=True, slots=True)
class RobustnessRow:
    """One network on pictures made worse: the mean over all kinds and severities, and the kind that hurts most.

    `difference` is that of the mean to the first network's, with its interval; None for the first.
    """

    name: str
    clean: float
    mean: float
    mean_escape: float | None
    mean_overkill: float | None
    worst: str
    worst_mean: float
    difference: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True)
class RobustnessCurve:
    """One network, one kind of worse pictures: values from severity 0, the clean pictures, on."""

    network: str
    corruption: str
    balanced_accuracy: list[float]
    escape: list[float | None]
    overkill: list[float | None]


@dataclass(frozen=True, slots=True)
class Robustness:
    """What is left of the decisions when the pictures of the station get worse; `good` as of the run."""

    images: int
    good: str | None
    rows: list[RobustnessRow]
    curves: list[RobustnessCurve]


Bounded = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True, slots=True)
class WayRow:
    """The chosen network trained or asked in one way; `ms` is the cost of one image in torch on one CPU thread."""

    name: str
    accuracy: float
    balanced_accuracy: Bounded
    loss: Bounded
    calibration_error: float
    escape: float | None
    overkill: float | None
    ms: float
    delivered: bool


@dataclass(frozen=True, slots=True)
class Ways:
    """Several ways on the same test images, and what one has more than another, a sentence each."""

    rows: list[WayRow]
    sentences: list[str]


@dataclass(frozen=True, slots=True)
class Training:
    """What noise and a teacher gave, None where there was none; `pilot` is a sentence and an SVG figure."""

    modes: Ways | None
    tuition: Ways | None
    pilot: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class VariantRow:
    """The delivered network in one precision, on the validation images; figures None where it was not timed.

    `escapes` and `overkill` are phrases that count what is new and what is gone; `reasons` are those against it.
    """

    name: str
    calibration: str | None
    size_mb: float
    latency_ms: float | None
    after_idle_ms: float | None
    frames_per_s: float | None
    memory_mb: float | None
    balanced_accuracy: float
    escapes: str | None
    overkill: str | None
    changed: str
    reasons: list[str]
    delivered: bool


@dataclass(frozen=True, slots=True)
class Weighed:
    """A network on a kind of station; balanced accuracy and loss are of a short training, on the validation images."""

    latency_ms: float
    balanced_accuracy: float
    loss: float


@dataclass(frozen=True, slots=True)
class KindRow:
    """A kind of station: the best network within its budgets, and the best within those of all kinds, if any."""

    device: str
    budget_ms: float
    genome: str
    own: Weighed
    shared: Weighed | None
    here: bool


@dataclass(frozen=True, slots=True)
class Kinds:
    """All kinds of station of a line, and the choice in a sentence."""

    rows: list[KindRow]
    sentence: str


@dataclass(frozen=True, slots=True)
class MistakeRow:
    """Share of mistakes of one kind: by the network alone, and left where a person is right on what is reviewed."""

    name: str
    alone: Bounded
    with_person: Bounded


@dataclass(frozen=True, slots=True)
class Review:
    """What goes to a person, as shares of the test images: in all, near the threshold, unlike the training images."""

    images: int
    share: Bounded
    near: Bounded
    unlike: Bounded
    mistakes: list[MistakeRow]
    note: str


@dataclass(frozen=True, slots=True)
class RunReport:
    """All that the page shows.

    `good` is the class that passes, None on a line that only sorts. An image is rejected when its reject
    score is at or above `threshold`. `confusion` is int (K, K), rows truth, columns decided, in the order
    of `labels`; `reject_scores` is float (N,), `defective` bool (N,); `latency_samples_ms` is float (M,).
    """

    line: str
    device: str
    created: datetime | str
    tool_version: str
    accepted: bool
    headline: str
    delivered_genome: str
    good: str | None
    labels: list[str]
    threshold: float | None
    budgets: list[Budget]
    evaluated: int
    search_points: list[SearchPoint]
    chosen_genome: str
    shortlist: list[ShortlistRow]
    curves: list[Curve]
    acceptance: list[AcceptanceRow]
    classes: list[ClassRow]
    confusion: npt.NDArray[np.integer]
    reject_scores: FloatArray | None
    defective: npt.NDArray[np.bool_] | None
    networks: list[NetworkRow]
    mistakes: list[Mistake]
    latency_samples_ms: FloatArray
    stages: list[StageRow]
    bundle: str
    key_note: str
    data_note: str
    notes: list[str]
    versions: dict[str, str]
    next_command: str
    robustness: Robustness | None = None
    training: Training | None = None
    variants: list[VariantRow] = field(default_factory=list)
    pace: str = ""
    kinds: Kinds | None = None
    review: Review | None = None
