"""Parts of the deployable space: what a line's profile or the command line leaves of its alphabet."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from export.runtime.errors import UsageError
from factory.profiles import SpaceLimits
from factory.spaces.plan import Input
from factory.spaces.residual import (
    EXPANSIONS,
    STAGES,
    STEM_WIDTHS,
    STRIDES,
    Genome,
    Stage,
    fits_input,
    random_genome,
)

Choice = tuple[str, str | int]  # a key of `SpaceLimits` and one value of it

EVERYTHING: Final = SpaceLimits()
KEYS: Final = tuple(SpaceLimits.model_fields)
FITS_ALL: Final = Input(1024, 1024, 1)  # pictures so large that every genome fits them


def written(choice: Choice) -> str:
    """A choice as the command line writes it, such as `kinds=basic`."""
    return f"{choice[0]}={choice[1]}"


def choices(genome: Genome) -> frozenset[Choice]:
    """Every choice that a genome makes."""
    made: set[Choice] = {("stem_strides", genome.stem_stride)}
    for s in genome.stages:
        made |= {("kinds", s.kind), ("depths", s.depth), ("widths", s.width), ("kernels", s.kernel)}
    return frozenset(made)


def allowed(limits: SpaceLimits) -> list[Choice]:
    """Every choice that the limits leave, in the order of the alphabet."""
    return [(key, value) for key in KEYS for value in getattr(limits, key)]


def allows(limits: SpaceLimits, genome: Genome) -> bool:
    """Whether all that a genome chooses is left by the limits."""
    return all(value in getattr(limits, key) for key, value in choices(genome))


def without(limits: SpaceLimits, choice: Choice) -> SpaceLimits | None:
    """The limits with one choice fewer; None where nothing of its key would be left."""
    key, removed = choice
    left = tuple(value for value in getattr(limits, key) if value != removed)
    return limits.model_copy(update={key: left}) if left else None


def union(a: SpaceLimits, b: SpaceLimits) -> SpaceLimits:
    """Every value that either allows."""
    both = {key: [v for v in getattr(EVERYTHING, key) if v in getattr(a, key) + getattr(b, key)] for key in KEYS}
    return EVERYTHING.model_copy(update={key: tuple(values) for key, values in both.items()})


def narrowed(limits: SpaceLimits, within: SpaceLimits = EVERYTHING) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Keys, with the values that are left, of which `limits` leaves fewer than `within`."""
    for key in KEYS:
        if getattr(limits, key) != getattr(within, key):
            yield key, getattr(limits, key)


def describe(limits: SpaceLimits, within: SpaceLimits = EVERYTHING) -> str:
    """One shell word that `parse_restriction` reads back."""
    parts = [f"{key}={','.join(map(str, values))}" for key, values in narrowed(limits, within)]
    return "+".join(parts) or "all"


def toml(limits: SpaceLimits) -> str:
    """The `[space]` table of a profile; empty where everything is allowed."""
    lines = [f"{key} = {json.dumps(values)}" for key, values in narrowed(limits)]
    return "\n".join(["[space]", *lines]) + "\n" if lines else ""


def parse_restriction(text: str, within: SpaceLimits = EVERYTHING) -> SpaceLimits:
    """Read `all`, or what is to be left of some keys, such as `kinds=basic,mb+depths=1,2`.

    Args:
        text: keys joined by `+`, their values by commas; a key that is not named keeps all that `within` leaves.
        within: the line's own limits; nothing outside them can be asked for.

    Raises:
        UsageError: naming what is allowed.
    """
    limits, named = within, set[str]()
    for part in [] if text == "all" else text.split("+"):
        key, _, values = part.partition("=")
        if key not in KEYS or key in named:
            raise _refused(text, f"each key once, of {', '.join(KEYS)}, as in kinds=basic,mb+depths=1,2; or all", part)
        named.add(key)
        left = {str(value): value for value in getattr(within, key)}
        asked = values.split(",")
        strange = [value for value in asked if value not in left]
        if strange:
            raise _refused(text, f"{key} of {','.join(left)}", ",".join(strange))
        limits = limits.model_copy(update={key: tuple(value for name, value in left.items() if name in asked)})
    return limits


def _refused(text: str, expected: str, found: str) -> UsageError:
    return UsageError(
        f"restriction {text!r} is not understood",
        expected=expected,
        found=repr(found),
        fix="The profile's [space] says what else the line leaves out",
    )


def _confined_stage(limits: SpaceLimits, stage: Stage, rng: np.random.Generator) -> Stage:
    kind = _left(limits.kinds, stage.kind, rng)
    expansion = stage.expansion if kind == stage.kind else int(rng.choice(EXPANSIONS[kind]))
    return Stage(
        kind,
        _left(limits.widths, stage.width, rng),
        _left(limits.depths, stage.depth, rng),
        _left(limits.kernels, stage.kernel, rng),
        expansion,
        stage.stride,
    )


def _left(values: tuple[Any, ...], value: Any, rng: np.random.Generator) -> Any:
    return value if value in values else values[int(rng.integers(len(values)))]


def confined(limits: SpaceLimits, genome: Genome, rng: np.random.Generator) -> Genome:
    """The genome with every choice that is not allowed drawn anew, uniformly among those left."""
    stages = tuple(_confined_stage(limits, stage, rng) for stage in genome.stages)
    return Genome(genome.stem_width, _left(limits.stem_strides, genome.stem_stride, rng), stages)


def draw(limits: SpaceLimits, rng: np.random.Generator, picture: Input) -> Genome:
    """Draw as `random_genome` does, each choice uniform among those left; where all are left, the same genomes.

    A small part of the space costs no more draws than the whole.
    """
    while True:
        genome = confined(limits, random_genome(rng, FITS_ALL), rng)
        widths = sorted(stage.width for stage in genome.stages)
        stages = tuple(replace(stage, width=width) for stage, width in zip(genome.stages, widths, strict=True))
        genome = replace(genome, stages=stages)
        if fits_input(genome, picture):
            return genome


def genome_count(limits: SpaceLimits = EVERYTHING) -> int:
    """Number of genomes that the limits leave, the last map's size aside."""
    expansions = sum(len(EXPANSIONS[kind]) for kind in limits.kinds)
    stage = len(limits.widths) * len(limits.depths) * len(limits.kernels) * len(STRIDES) * expansions
    return len(STEM_WIDTHS) * len(limits.stem_strides) * sum(stage**count for count in STAGES)
