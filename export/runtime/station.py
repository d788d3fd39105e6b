"""An inspection station: a verified bundle, its network open, its golden pictures scored as before."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Self

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from export.runtime import compat, cuda, overlay
from export.runtime.decision import Decision, VerdictName, decide, softmax
from export.runtime.engines import Opened, open_runner
from export.runtime.errors import BundleRefused, EnvironmentLacks, ImageRefused
from export.runtime.golden import Frame, compare, read_golden
from export.runtime.image import decode, fit
from export.runtime.manifest import Manifest, Runtime
from export.runtime.trust import VerifiedBundle, load_trusted, verify_bundle


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the station says of one picture.

    ``scores`` holds the probability by label, ``threshold`` the reject score from which a picture is
    rejected (None on a line that only sorts), ``ms`` the milliseconds from the picture to the verdict.
    """

    verdict: VerdictName
    label: str
    scores: dict[str, float]
    threshold: float | None
    ms: float


class Station:
    """A bundle ready to inspect; get one by ``Station.load``."""

    def __init__(self, manifest: Manifest, opened: Opened, runtime: Runtime) -> None:
        self.manifest = manifest
        self.runtime = runtime
        self._runner, self.variant = opened

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
        verified = verify_bundle(bundle, trusted)
        station = cls(verified.manifest, *_open(verified, runtime, store))
        station.check_golden(verified)
        return station

    @property
    def provider(self) -> str:
        """What computes, as the runtime itself says."""
        return self._runner.provider

    def inspect(self, image: Path | bytes | NDArray[np.generic]) -> Verdict:
        """Return the verdict on one picture: a file, a file's bytes, or pixels as ``image.fit`` takes them.

        Raises ImageRefused for a picture that cannot be read, GateError where no finite score came out.
        """
        return self.inspect_batch([image])[0]

    def inspect_batch(self, images: Sequence[Path | bytes | NDArray[np.generic]]) -> list[Verdict]:
        """Return one verdict a picture, computed together; each ``ms`` is an equal share of the time taken.

        Raises as ``inspect`` does; one unreadable picture refuses the batch.
        """
        if not images:
            return []
        start = perf_counter()
        scores, decisions = self._decide(np.stack([self._fitted(image) for image in images]))
        share = (perf_counter() - start) * 1000 / len(images)
        return [
            Verdict(decision.verdict, decision.label, self._by_label(row), self.variant.decision.threshold, share)
            for row, decision in zip(scores, decisions, strict=True)
        ]

    def _fitted(self, image: Path | bytes | NDArray[np.generic]) -> NDArray[np.uint8]:
        taken = self.manifest.input
        pixels = image if isinstance(image, np.ndarray) else decode(image)
        return fit(pixels, taken.height, taken.width, taken.channels)

    def _decide(self, frames: NDArray[np.uint8]) -> tuple[NDArray[np.float64], list[Decision]]:
        scores = softmax(self._runner.infer(frames))
        manifest = self.manifest
        return scores, decide(scores, manifest.labels, manifest.good, self.variant.decision.threshold)

    def _by_label(self, row: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.manifest.labels, row.tolist(), strict=True))

    def check_golden(self, verified: VerifiedBundle) -> float:
        """Return by how much a golden picture's scores deviate at most (a difference of probabilities).

        Raises BundleRefused unless every golden picture of the bundle gets its scores and its decision again.
        """
        expected = read_golden(verified.manifest, verified.contents, self.variant.golden)
        found = []
        for frame in expected:
            got = self._inspect_golden(frame.path, verified.contents[frame.path])
            found.append(Frame(path=frame.path, scores=got.scores, verdict=got.verdict, label=got.label))
        return compare(expected, found, self.variant.golden.tolerance)

    def _inspect_golden(self, path: str, picture: bytes) -> Verdict:
        try:
            return self.inspect(picture)
        except ImageRefused as error:
            raise BundleRefused(f"the golden frame {path}: {error}") from error


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
