"""The scores a bundle's own pictures must get again wherever it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from export.runtime.decision import VerdictName
from export.runtime.errors import BundleRefused
from export.runtime.manifest import Golden, Manifest
from export.runtime.strictjson import read_json, shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One golden picture: its path in the bundle, its probability by label, and what was decided."""

    path: str
    scores: dict[str, float]
    verdict: VerdictName
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenScores:
    """The content of the golden scores file."""

    frames: tuple[Frame, ...]


def read_golden(manifest: Manifest, contents: Mapping[str, bytes], golden: Golden) -> tuple[Frame, ...]:
    """Return the golden frames of a verified bundle: those of one of its models.

    Raises BundleRefused where there are none, or where they do not name each golden picture once with
    a score for each label.
    """
    path = golden.path
    frames = shape(GoldenScores, read_json(contents[path], path), "golden").frames
    pictures = sorted(entry.path for entry in manifest.files if entry.role == "golden-frame")
    if not frames or sorted(frame.path for frame in frames) != pictures:
        raise BundleRefused(
            "the golden scores do not belong to the golden pictures",
            expected=", ".join(pictures) or "at least one picture",
            found=", ".join(frame.path for frame in frames) or "none",
            fix="Build the bundle again",
        )
    for frame in frames:
        if frame.scores.keys() != set(manifest.labels):
            raise BundleRefused(
                f"the golden scores of {frame.path} do not belong to the labels",
                expected=", ".join(manifest.labels),
                found=", ".join(frame.scores),
                fix="Build the bundle again",
            )
    return frames


def compare(expected: Sequence[Frame], found: Sequence[Frame], tolerance: float) -> float:
    """Return the largest deviation, a difference of probabilities, if every score and decision came out again.

    ``found`` holds the frames of ``expected`` in the same order, scored here. A score may differ by at
    most ``tolerance``; a verdict or a label not at all. Raises BundleRefused, naming the worst frame, otherwise.
    """
    pairs = list(zip(expected, found, strict=True))
    wanted, got = max(pairs, key=lambda pair: _deviation(*pair))
    deviation = _deviation(wanted, got)
    if deviation > tolerance:
        raise _refused(f"the golden frame {wanted.path} is off by {deviation:.3g} (allowed {tolerance:g})", wanted, got)
    for wanted, got in pairs:
        if (wanted.verdict, wanted.label) != (got.verdict, got.label):
            raise _refused(f"the golden frame {wanted.path} is decided otherwise", wanted, got)
    return deviation


def _deviation(wanted: Frame, got: Frame) -> float:
    return max(abs(score - got.scores[label]) for label, score in wanted.scores.items())


def _refused(message: str, wanted: Frame, got: Frame) -> BundleRefused:
    fix = "This machine computes otherwise than the one that built the bundle: match its runtime's version"
    return BundleRefused(message, expected=_spoken(wanted), found=_spoken(got), fix=fix)


def _spoken(frame: Frame) -> str:
    scores = ", ".join(f"{label} {score:.6f}" for label, score in frame.scores.items())
    return f"{frame.verdict} {frame.label} ({scores})"
