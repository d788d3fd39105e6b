"""An inspection station: a verified bundle, its network open, its golden pictures scored as before."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final, Literal, NamedTuple, Self, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from export.runtime import compat, cuda, overlay
from export.runtime.decision import Rule, softmax_row
from export.runtime.drift.novelty import Novelty
from export.runtime.drift.reference import read_reference
from export.runtime.drift.statistics import Gauge
from export.runtime.engines import Opened, open_runner
from export.runtime.errors import BundleRefused, EnvironmentLacks, ImageRefused
from export.runtime.golden import Frame, compare, read_golden
from export.runtime.image import decode, fit
from export.runtime.manifest import Runtime
from export.runtime.trust import VerifiedBundle, load_trusted, verify_bundle

Picture: TypeAlias = Path | bytes | NDArray[np.generic]
Word: TypeAlias = Literal["pass", "reject", "review", "class"]
NEAR: Final = "the score is near the threshold"
UNLIKE: Final = "unlike the training pictures"


class Verdict(NamedTuple):
    """What the station says of one picture.

    "review" asks for a person's look, and ``reason`` says why; ``label`` is then what the network alone would have
    said. ``scores`` holds the probability by label, ``threshold`` the reject score from which a picture is rejected
    (None on a line that only sorts), ``score`` the reject score (there: the probability of the label). ``ms`` are the
    milliseconds from the picture to the verdict. ``novelty`` is about 1 for a picture like those of the training,
    ``brightness`` the mean grey of its frame (0 to 255), ``sharpness`` the root mean square step to the next pixel.
    """

    verdict: Word
    label: str
    scores: dict[str, float]
    threshold: float | None
    ms: float
    score: float
    reason: str | None
    novelty: float
    brightness: float
    sharpness: float


class Station:
    """A bundle ready to inspect, also by several threads at once; a context manager. Get one by ``Station.load``."""

    def __init__(self, bundle: VerifiedBundle, opened: Opened, runtime: Runtime) -> None:
        self.manifest = bundle.manifest
        self.runtime = runtime
        self.golden_deviation = math.inf  # until the golden pictures were scored
        self._runner, self.variant = opened
        taken = self.manifest.input
        self._gauge = Gauge(taken.height, taken.width, taken.channels)
        self.reference = read_reference(bundle.manifest, bundle.contents, self._gauge.size)
        self._novelty = Novelty(self.reference.familiar)
        self._labels, self._threshold = self.manifest.labels, self.variant.decision.threshold
        self._band = self.variant.decision.review
        self._rule = Rule(self._labels, self.manifest.good, self._threshold)

    @classmethod
    def load(
        cls,
        bundle: Path,
        trusted_keys: Sequence[Path] | Mapping[str, Ed25519PublicKey],
        *,
        runtime: Runtime | None = None,
        store: Path | None = None,
    ) -> Self:
        """Return a station running the bundle, once everything about it has been verified.

        ``trusted_keys`` are public key files, folders of them, or the keys by id. ``runtime`` is another than the
        bundle's own; only where it is not given may the bundle's fallback step in, and that is logged as a warning.
        ``store`` is the station's folder, whose own engine of this bundle goes before the bundle's.

        Raises BundleRefused where trust, files or golden scores do not hold, EnvironmentLacks where this machine
        cannot run the bundle, and UsageError where the keys cannot be read.
        """
        trusted = trusted_keys if isinstance(trusted_keys, Mapping) else load_trusted(trusted_keys)
        return cls.of(verify_bundle(bundle, trusted), runtime=runtime, store=store)

    @classmethod
    def of(cls, bundle: VerifiedBundle, *, runtime: Runtime | None = None, store: Path | None = None) -> Self:
        """Return a station running a bundle that is verified, once its golden scores are, too; as ``load`` does."""
        station = cls(bundle, *_open(bundle, runtime, store))
        station.check_golden(bundle)
        return station

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the memory of the network, on a GPU, too; nothing can be inspected any more."""
        del self._runner

    @property
    def provider(self) -> str:
        """What computes, as the runtime itself says."""
        return self._runner.provider

    def inspect(self, image: Picture) -> Verdict:
        """Return the verdict on one picture: a file, a file's bytes, or pixels as ``image.fit`` takes them.

        Raises ImageRefused for a picture that cannot be read, GateError where no finite score came out.
        """
        start = perf_counter()
        frame = self.fitted(image)
        return self._judge(frame, self._runner.infer_one(frame), start, 1)

    def inspect_batch(self, images: Sequence[Picture]) -> list[Verdict]:
        """Return one verdict a picture, computed together; each ``ms`` is an equal share of the time taken.

        Raises as ``inspect`` does; one unreadable picture refuses the batch.
        """
        if not images:
            return []
        start = perf_counter()
        frames = [self.fitted(image) for image in images]
        rows = self._runner.infer(np.stack(frames)).tolist()
        return [self._judge(*of_one, start, len(images)) for of_one in zip(frames, rows, strict=True)]

    def fitted(self, image: Picture) -> NDArray[np.uint8]:
        """Return a picture as the network takes it, uint8 (height, width, channels); raises as ``inspect`` does."""
        taken = self.manifest.input
        pixels = image if isinstance(image, np.ndarray) else decode(image)
        return fit(pixels, taken.height, taken.width, taken.channels)

    def _judge(self, frame: NDArray[np.uint8], logits: list[float], start: float, together: int) -> Verdict:
        row = softmax_row(logits)
        decision, score = self._rule.decide(row), self._rule.score(row)
        statistics = self._gauge.measure(frame)
        novelty = self._novelty.of(statistics)
        reason = self._reason(score, novelty)
        return Verdict(
            "review" if reason else decision.verdict,
            decision.label,
            dict(zip(self._labels, row, strict=True)),
            self._threshold,
            (perf_counter() - start) * 1000 / together,
            score,
            reason,
            novelty,
            statistics.brightness,
            statistics.sharpness,
        )

    def _reason(self, score: float, novelty: float) -> str | None:
        band = self._band
        if novelty > self._novelty.limit:
            return UNLIKE
        return NEAR if band is not None and band.low <= score <= band.high else None

    def check_golden(self, bundle: VerifiedBundle) -> None:
        """Find by how much a golden picture's scores deviate at most (``golden_deviation``, of a probability).

        Raises BundleRefused unless every golden picture of the bundle gets its scores and its decision again.
        """
        expected = read_golden(bundle.manifest, bundle.contents, self.variant.golden)
        found = [self._golden(frame.path, bundle.contents[frame.path]) for frame in expected]
        self.golden_deviation = compare(expected, found, self.variant.golden.tolerance)

    def _golden(self, path: str, picture: bytes) -> Frame:
        try:
            frame = self.fitted(picture)
        except ImageRefused as error:
            raise BundleRefused(f"the golden frame {path}: {error}") from error
        row = softmax_row(self._runner.infer_one(frame))
        decision = self._rule.decide(row)
        scores = dict(zip(self._labels, row, strict=True))
        return Frame(path=path, scores=scores, verdict=decision.verdict, label=decision.label)


def _open(verified: VerifiedBundle, runtime: Runtime | None, store: Path | None) -> tuple[Opened, Runtime]:
    device = verified.manifest.device
    first = runtime or device.runtime
    try:
        return open_in(verified, first, store), first
    except EnvironmentLacks as error:
        if runtime is not None or device.fallback is None:
            raise
        log = logging.getLogger(__name__)
        log.warning("FALLING BACK from %s to %s, as the bundle allows: %s", device.runtime, device.fallback, error)
    return open_in(verified, device.fallback, store), device.fallback


def open_in(verified: VerifiedBundle, runtime: Runtime, store: Path | None) -> Opened:
    """Return the network of a verified bundle in one runtime; the station's own engine goes before the bundle's.

    Raises as ``Station.load`` does.
    """
    compat.require(verified.manifest, runtime)
    own = None if store is None else overlay.read(store, verified, runtime)
    if own is None:
        return open_runner(verified, runtime, store=store)
    record, plan = own
    overlay.check_machine(record, cuda.gpu())
    return open_runner(verified, runtime, (record.engine, plan), store)
