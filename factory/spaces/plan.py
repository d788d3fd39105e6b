"""A network as plain data: every convolution with its shape, before any weight exists."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Conv:
    """A k x k convolution with padding k // 2, its batch-norm (folded when deployed) and perhaps a ReLU."""

    channels_in: int
    channels_out: int
    kernel: int
    stride: int
    groups: int
    relu: bool


@dataclass(frozen=True, slots=True)
class Block:
    """A chain of convolutions; `residual` adds the block's input, through `shortcut` if the shape changes.

    `stage` counts the stages of the network from 0; a schedule of Swapout may follow it.
    """

    branch: tuple[Conv, ...]
    residual: bool
    shortcut: Conv | None
    relu_after: bool
    stage: int = 0


@dataclass(frozen=True, slots=True)
class Input:
    """Shape of the picture a network sees, in pixels."""

    height: int
    width: int
    channels: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Stem, blocks, global mean, linear head."""

    input: Input
    stem: Conv
    blocks: tuple[Block, ...]
    classes: int

    @property
    def features(self) -> int:
        """Channels that the head reads."""
        last = self.blocks[-1].branch[-1] if self.blocks else self.stem
        return last.channels_out

    @property
    def residual_blocks(self) -> int:
        """Number of blocks with a skip, which is the number of Swapout layers."""
        return len(self.stages)

    @property
    def stages(self) -> tuple[int, ...]:
        """Stage of each residual block, in order."""
        return tuple(block.stage for block in self.blocks if block.residual)


@dataclass(frozen=True, slots=True)
class Op:
    """One node of the deployed graph and the shape (channels, height, width) of its output."""

    kind: str  # "conv", "relu", "add", "mean", "gemm"
    inputs: tuple[int, ...]  # indices of the ops read; -1 is the normalised image
    channels: int
    height: int
    width: int
    conv: Conv | None = None

    @property
    def values(self) -> int:
        """Number of values of the output for one image."""
        return self.channels * self.height * self.width


class _Trace:
    def __init__(self, plan: Plan) -> None:
        self.ops: list[Op] = []
        self.plan = plan

    def size(self, source: int) -> tuple[int, int]:
        if source < 0:
            return self.plan.input.height, self.plan.input.width
        return self.ops[source].height, self.ops[source].width

    def add(self, kind: str, inputs: tuple[int, ...], channels: int, conv: Conv | None = None) -> int:
        height, width = self.size(inputs[0])
        if conv is not None:
            height, width = -(-height // conv.stride), -(-width // conv.stride)
        if kind in {"mean", "gemm"}:
            height = width = 1
        self.ops.append(Op(kind, inputs, channels, height, width, conv))
        return len(self.ops) - 1

    def conv(self, source: int, conv: Conv) -> int:
        out = self.add("conv", (source,), conv.channels_out, conv)
        return self.add("relu", (out,), conv.channels_out) if conv.relu else out

    def block(self, source: int, block: Block) -> int:
        out = source
        for conv in block.branch:
            out = self.conv(out, conv)
        if block.residual:
            skip = source if block.shortcut is None else self.conv(source, block.shortcut)
            out = self.add("add", (skip, out), block.branch[-1].channels_out)
        return self.add("relu", (out,), block.branch[-1].channels_out) if block.relu_after else out


def graph(plan: Plan) -> list[Op]:
    """The nodes of the deployed (collapsed) network in execution order, without the input's normalisation."""
    trace = _Trace(plan)
    out = trace.conv(-1, plan.stem)
    for block in plan.blocks:
        out = trace.block(out, block)
    out = trace.add("mean", (out,), plan.features)
    trace.add("gemm", (out,), plan.classes)
    return trace.ops


def convolutions(plan: Plan) -> Iterator[Conv]:
    """Every convolution of the network, stem first."""
    yield plan.stem
    for block in plan.blocks:
        yield from block.branch
        if block.shortcut is not None:
            yield block.shortcut
