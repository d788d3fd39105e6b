"""What a bundle knows of the pictures its network was trained on: the file that its manifest calls the reference."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, Literal

from export.runtime.errors import BundleRefused
from export.runtime.manifest import Manifest
from export.runtime.strictjson import read_json, shape

QUANTITIES: Final = ("score", "brightness", "sharpness", "novelty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Familiar:
    """Pictures like those of the training: the mean (D,) of their statistics, a whitening (K, D), the usual novelty.

    A picture of a novelty above ``limit`` is unlike them.
    """

    mean: tuple[float, ...]
    whiten: tuple[tuple[float, ...], ...]
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """Of validation pictures, in ascending order: score, brightness, sharpness and novelty.

    The score is the reject score; on a line that only sorts, the probability of the most probable label.
    """

    score: tuple[float, ...]
    brightness: tuple[float, ...]
    sharpness: tuple[float, ...]
    novelty: tuple[float, ...]

    def by_name(self) -> Mapping[str, tuple[float, ...]]:
        """The values of each quantity."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The content of the reference file."""

    schema: Literal[1] = 1
    familiar: Familiar
    values: Values


def read_reference(manifest: Manifest, contents: Mapping[str, bytes], size: int) -> Reference:
    """Return the reference of a verified bundle whose frames have statistics of length ``size``.

    Raises BundleRefused where it does not belong to such frames, or holds no values to compare with.
    """
    path = manifest.reference
    found = shape(Reference, read_json(contents[path], path), "reference")
    familiar, values = found.familiar, found.values.by_name()
    lengths = {len(familiar.mean), *(len(row) for row in familiar.whiten)}
    if lengths != {size} or not familiar.whiten or familiar.limit <= 0:
        raise BundleRefused(
            f"{path} does not belong to the network's frames",
            expected=f"{size} statistics a picture and a limit above 0",
            found=f"{', '.join(map(str, sorted(lengths)))} statistics, limit {familiar.limit:g}",
            fix="Build the bundle again",
        )
    if any(not own or list(own) != sorted(own) for own in values.values()):
        raise BundleRefused(f"{path} holds no ascending values to compare with", fix="Build the bundle again")
    return found
