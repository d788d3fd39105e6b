"""SWAP-Score of one architecture, with all that it was measured with."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.runtime.errors import GateError, UsageError
from factory.engine import Serial
from factory.evidence.measures import params, regulariser_for, scored_size
from factory.evidence.pictures import load_pictures
from factory.score.protocol import ScoreProtocol
from factory.score.regulariser import SizeRegulariser
from factory.score.stack import UnscorableError
from factory.search.scorer import Scorer
from factory.spaces.protocol import Space


def score_one(
    space: Space, arch: str, protocol: ScoreProtocol, images: Path | None, seed: int, size: SizeRegulariser | None
) -> dict[str, Any]:
    """Score one architecture: the JSON document of `factory score`.

    Args:
        space: of the architecture.
        arch: the architecture.
        protocol: with an image size.
        images: where the pictures are; None makes some.
        seed: of the pictures, the initialisations and of what the regulariser is derived from.
        size: the regulariser; None derives it from the space.

    Raises:
        GateError: if the architecture is invalid, as its output says nothing of the picture.
        UsageError: if it is not of the space, or has layers for which the score is not defined.
    """
    try:
        canonical = space.check(arch)
    except ValueError as error:
        raise UsageError(f"this is no architecture of {space.name}: {error}") from error
    if not space.connected(canonical):
        raise _invalid(canonical, "no path from the input to the output")
    side = protocol.image_size
    if side is None:
        raise ValueError("the protocol says no image size")
    pictures = load_pictures(images, protocol.samples, side, seed)
    scorer = Scorer(space, pictures, space.full.classes, seed, protocol)
    regulariser = size or regulariser_for(space, protocol, seed)
    start = time.perf_counter()
    try:
        (score,) = Serial().map(scorer, [canonical])
    except UnscorableError as error:
        raise UsageError(f"{canonical} cannot be scored: {error}") from error
    seconds = time.perf_counter() - start
    if score is None:
        raise _invalid(canonical, "an output that is not finite, or the same for every picture")
    scored = params(space, canonical, scored_size(space, protocol))
    return {
        **asdict(score),
        "regularised": score.swap * regulariser.factor(scored),
        "params": scored,
        "params_full": params(space, canonical, space.full),
        "seconds": seconds,
        "space": space.name,
        "arch": canonical,
        "regulariser": asdict(regulariser),
        "protocol": asdict(protocol) | {"digest": protocol.digest},
        "pictures": "made" if images is None else str(images),
    }


def _invalid(arch: str, found: str) -> GateError:
    fix = "Nothing was scored: it is not a low score but an invalid network; change its operations"
    return GateError(f"{arch} is degenerate", expected="an output that depends on the picture", found=found, fix=fix)
