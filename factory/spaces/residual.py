"""The deployable space: a stem and stages of residual blocks, every one of which collapses exactly.

A genome prints as one readable string and parses back:
    stem_w16_s2-basic_w24_d2_k3_e1_s1-bottle_w48_d1_k3_e4_s2-mb_w64_d3_k5_e3_s2
w is the width in channels, d the depth in blocks, k the kernel, e the expansion, s the stride of the first block.
`basic`: two k x k convolutions, the first e times as wide. `bottle`: 1x1 down to w / e, k x k, 1x1 back.
`mb`: 1x1 up to e times the input, k x k depthwise, 1x1 back, with no activation on the stream.
"""

import re
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

import numpy as np

from factory.spaces.plan import Block, Conv, Input, Plan

Kind = Literal["basic", "bottle", "mb"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
STEM_WIDTHS: Final = (8, 16, 24, 32)
STEM_STRIDES: Final = (1, 2, 4)
WIDTHS: Final = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
DEPTHS: Final = (1, 2, 3, 4)
KERNELS: Final = (3, 5)
EXPANSIONS: Final[dict[Kind, tuple[int, ...]]] = {"basic": (1, 2), "bottle": (2, 4), "mb": (2, 3, 4, 6)}
STRIDES: Final = (1, 2)
STAGES: Final = (2, 3, 4)
SMALLEST_MAP: Final = 2  # pixels a side of the last feature map

_TOKEN = re.compile(r"(basic|bottle|mb)_w(\d+)_d(\d+)_k(\d+)_e(\d+)_s(\d+)")
_STEM = re.compile(r"stem_w(\d+)_s(\d+)")


@dataclass(frozen=True, slots=True)
class Stage:
    """`depth` blocks of one kind; the first has the stride and changes the width."""

    kind: Kind
    width: int
    depth: int
    kernel: int
    expansion: int
    stride: int

    def __str__(self) -> str:
        return f"{self.kind}_w{self.width}_d{self.depth}_k{self.kernel}_e{self.expansion}_s{self.stride}"


@dataclass(frozen=True, slots=True)
class Genome:
    """One network of the space, whatever the size of its input."""

    stem_width: int
    stem_stride: int
    stages: tuple[Stage, ...]

    def __str__(self) -> str:
        return "-".join([f"stem_w{self.stem_width}_s{self.stem_stride}", *map(str, self.stages)])


def parse(text: str) -> Genome:
    """Read a genome from its string.

    Raises:
        ValueError: naming the part that is not of the form above or not in the space.
    """
    stem, *stages = text.strip().split("-")
    head = _STEM.fullmatch(stem)
    if head is None:
        raise ValueError(f"expected a stem like 'stem_w16_s2', found {stem!r}")
    tokens = []
    for stage in stages:
        match = _TOKEN.fullmatch(stage)
        if match is None:
            raise ValueError(f"expected a stage like 'basic_w24_d2_k3_e1_s1', found {stage!r}")
        kind, *numbers = match.groups()
        tokens.append(Stage(next(k for k in KINDS if k == kind), *map(int, numbers)))
    genome = Genome(int(head[1]), int(head[2]), tuple(tokens))
    _check(genome)
    return genome


def _check(genome: Genome) -> None:
    def member(name: str, value: int, choices: tuple[int, ...]) -> None:
        if value not in choices:
            raise ValueError(f"{name} {value} is not in the space: choose one of {choices}")

    member("stem width", genome.stem_width, STEM_WIDTHS)
    member("stem stride", genome.stem_stride, STEM_STRIDES)
    member("number of stages", len(genome.stages), STAGES)
    for stage in genome.stages:
        member("width", stage.width, WIDTHS)
        member("depth", stage.depth, DEPTHS)
        member("kernel", stage.kernel, KERNELS)
        member(f"expansion of {stage.kind}", stage.expansion, EXPANSIONS[stage.kind])
        member("stride", stage.stride, STRIDES)


def downsampling(genome: Genome) -> int:
    """Product of all strides."""
    return genome.stem_stride * int(np.prod([stage.stride for stage in genome.stages]))


def fits_input(genome: Genome, picture: Input) -> bool:
    """Whether the last feature map keeps at least 2 x 2 pixels; below that convolutions only see padding."""
    return min(picture.height, picture.width) >= SMALLEST_MAP * downsampling(genome)


def random_genome(rng: np.random.Generator, picture: Input) -> Genome:
    """Draw a genome whose widths do not shrink with depth and whose last map is large enough."""
    while True:
        count = int(rng.choice(STAGES))
        widths = sorted(int(w) for w in rng.choice(WIDTHS, count))
        stages = tuple(
            _random_stage(rng, width, int(rng.choice(STRIDES)) if first else 2)
            for width, first in zip(widths, [True] + [False] * (count - 1), strict=True)
        )
        genome = Genome(int(rng.choice(STEM_WIDTHS)), int(rng.choice(STEM_STRIDES)), stages)
        if fits_input(genome, picture):
            return genome


def _random_stage(rng: np.random.Generator, width: int, stride: int) -> Stage:
    kind = KINDS[int(rng.integers(len(KINDS)))]
    depth, kernel = int(rng.choice(DEPTHS)), int(rng.choice(KERNELS))
    return Stage(kind, width, depth, kernel, int(rng.choice(EXPANSIONS[kind])), stride)


def _step(rng: np.random.Generator, choices: tuple[int, ...], value: int) -> int:
    """A neighbour of `value` in the ordered choices."""
    index = choices.index(value) + int(rng.choice((-1, 1)))
    return choices[min(max(index, 0), len(choices) - 1)]


def _mutate_stage(rng: np.random.Generator, stage: Stage) -> Stage:
    match rng.choice(("width", "depth", "kernel", "expansion", "kind", "stride")):
        case "width":
            return replace(stage, width=_step(rng, WIDTHS, stage.width))
        case "depth":
            return replace(stage, depth=_step(rng, DEPTHS, stage.depth))
        case "kernel":
            return replace(stage, kernel=_step(rng, KERNELS, stage.kernel))
        case "expansion":
            return replace(stage, expansion=_step(rng, EXPANSIONS[stage.kind], stage.expansion))
        case "stride":
            return replace(stage, stride=_step(rng, STRIDES, stage.stride))
        case _:
            kind = KINDS[int(rng.integers(len(KINDS)))]
            return replace(stage, kind=kind, expansion=int(rng.choice(EXPANSIONS[kind])))


def mutate(genome: Genome, rng: np.random.Generator, picture: Input) -> Genome:
    """Return a neighbour: one property of one stage, of the stem, or the number of stages, is changed."""
    while True:
        stages = list(genome.stages)
        child = genome
        match rng.choice(("stage", "stem", "count"), p=(0.7, 0.15, 0.15)):
            case "stage":
                index = int(rng.integers(len(stages)))
                stages[index] = _mutate_stage(rng, stages[index])
                child = replace(genome, stages=tuple(stages))
            case "stem" if rng.random() < 0.5:
                child = replace(genome, stem_width=_step(rng, STEM_WIDTHS, genome.stem_width))
            case "stem":
                child = replace(genome, stem_stride=_step(rng, STEM_STRIDES, genome.stem_stride))
            case _ if len(stages) < STAGES[-1] and (len(stages) == STAGES[0] or rng.random() < 0.5):
                stages.append(_random_stage(rng, stages[-1].width, 2))
                child = replace(genome, stages=tuple(stages))
            case _:
                del stages[int(rng.integers(len(stages)))]
                child = replace(genome, stages=tuple(stages))
        if child != genome and fits_input(child, picture):
            return child


def crossover(a: Genome, b: Genome, rng: np.random.Generator, picture: Input) -> Genome:
    """Return the front part of `a` with the back part of `b`; `a` itself where the joint does not fit the input."""
    cut = int(rng.integers(1, min(len(a.stages), len(b.stages)) + 1))
    child = replace(a, stages=a.stages[:cut] + b.stages[cut:])
    return child if fits_input(child, picture) else a


def _blocks(stage: Stage, width_in: int, number: int) -> list[Block]:
    blocks = []
    for index in range(stage.depth):
        stride = stage.stride if index == 0 else 1
        blocks.append(replace(_block(stage, width_in, stride), stage=number))
        width_in = stage.width
    return blocks


def _block(stage: Stage, width_in: int, stride: int) -> Block:
    width, kernel = stage.width, stage.kernel
    convs: tuple[Conv, ...]
    same = stride == 1 and width_in == width
    if stage.kind == "mb":
        middle = width_in * stage.expansion
        convs = (
            Conv(width_in, middle, 1, 1, 1, relu=True),
            Conv(middle, middle, kernel, stride, middle, relu=True),
            Conv(middle, width, 1, 1, 1, relu=False),
        )
        return Block(convs, residual=same, shortcut=None, relu_after=False)
    if stage.kind == "basic":
        middle = width * stage.expansion
        convs = (
            Conv(width_in, middle, kernel, stride, 1, relu=True),
            Conv(middle, width, kernel, 1, 1, relu=False),
        )
    else:
        middle = max(8, width // stage.expansion)
        convs = (
            Conv(width_in, middle, 1, 1, 1, relu=True),
            Conv(middle, middle, kernel, stride, 1, relu=True),
            Conv(middle, width, 1, 1, 1, relu=False),
        )
    shortcut = None if same else Conv(width_in, width, 1, stride, 1, relu=False)
    return Block(convs, residual=True, shortcut=shortcut, relu_after=True)


def plan(genome: Genome, picture: Input, classes: int) -> Plan:
    """Every layer of the network of `genome` for pictures of the given size and number of classes."""
    kernel = 3 if genome.stem_stride < 4 else 7
    stem = Conv(picture.channels, genome.stem_width, kernel, genome.stem_stride, 1, relu=True)
    width, blocks = genome.stem_width, []
    for number, stage in enumerate(genome.stages):
        blocks += _blocks(stage, width, number)
        width = stage.width
    return Plan(picture, stem, tuple(blocks), classes)


def plain_genomes(picture: Input) -> list[Genome]:
    """The family of plain references: basic 3 x 3 blocks, widths doubling, one depth in all three stages."""
    genomes = [
        Genome(
            width,
            stem_stride,
            tuple(Stage("basic", width * 2**i, depth, 3, 1, 1 if i == 0 else 2) for i in range(3)),
        )
        for width in (8, 16, 24, 32)
        for depth in DEPTHS
        for stem_stride in STEM_STRIDES
    ]
    return [g for g in genomes if fits_input(g, picture) and all(s.width in WIDTHS for s in g.stages)]
