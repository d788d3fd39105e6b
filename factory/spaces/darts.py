"""The cells of DARTS (arXiv 1806.09055), of SWAP's own benchmark (arXiv 2403.04161) and of NAS-Bench-301.

An architecture prints as `NORMAL | REDUCE`; a cell is eight items `op:input`, two for each of its nodes 2, 3, 4, 5:
    sep_conv_3x3:0 skip_connect:1 dil_conv_5x5:2 avg_pool_3x3:0 ... | max_pool_3x3:1 none:0 ...
Inputs 0 and 1 are the outputs of the two cells before. A node is the sum of its items; the cell's output is the
concatenation of its four nodes.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from torch import Tensor, nn

from factory.spaces.layers import Concat, GlobalMean, Shifted, Zero
from factory.spaces.protocol import Size

POOLS: Final = ("max_pool_3x3", "avg_pool_3x3")
CONVS: Final = ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
OPS: Final = (*POOLS, "skip_connect", *CONVS)  # drawn from; `none` occurs in SWAP's benchmark only
NODES: Final = (2, 3, 4, 5)
INPUTS: Final = 2  # cells whose outputs a cell reads
STEM: Final = 3  # channels of the stem, in those of the first cell


class Edge(NamedTuple):
    """One operation on one input of a node."""

    op: str
    input: int

    def __str__(self) -> str:
        return f"{self.op}:{self.input}"


Cell = tuple[Edge, ...]


def _cell(text: str, name: str) -> Cell:
    items = text.split()
    if len(items) != 2 * len(NODES):
        raise ValueError(f"{name} cell: expected {2 * len(NODES)} items like 'sep_conv_3x3:0', found {len(items)}")
    edges = []
    for index, item in enumerate(items):
        node = NODES[index // 2]
        op, _, source = item.partition(":")
        if op not in ("none", *OPS):
            choices = ", ".join(("none", *OPS))
            raise ValueError(f"{name} cell, item {item!r}: {op!r} is not an operation: choose one of {choices}")
        if source not in map(str, range(node)):
            raise ValueError(f"{name} cell, item {item!r}: the input of node {node} is one of 0..{node - 1}")
        edges.append(Edge(op, int(source)))
    return tuple(edges)


def parse(arch: str) -> tuple[Cell, Cell]:
    """Read the normal and the reduction cell; a single cell is both.

    Raises:
        ValueError: naming the cell and the item that is not of the form above.
    """
    cells = arch.split("|")
    if len(cells) > 2:
        raise ValueError(f"expected 'NORMAL | REDUCE', found {len(cells)} cells")
    return _cell(cells[0], "normal"), _cell(cells[-1], "reduction")


def _text(cells: Sequence[Cell]) -> str:
    return " | ".join(" ".join(map(str, cell)) for cell in cells)


def _random_cell(rng: np.random.Generator) -> Cell:
    sources = [int(source) for node in NODES for source in rng.choice(node, 2, replace=False)]
    return tuple(Edge(OPS[int(rng.integers(len(OPS)))], source) for source in sources)


def _mutated_edge(cell: Cell, index: int, rng: np.random.Generator) -> Edge:
    edge, taken = cell[index], {cell[index].input, cell[index ^ 1].input}
    inputs = [source for source in range(NODES[index // 2]) if source not in taken]
    if inputs and rng.random() < 0.5:
        return edge._replace(input=inputs[int(rng.integers(len(inputs)))])
    ops = [op for op in OPS if op != edge.op]
    return edge._replace(op=ops[int(rng.integers(len(ops)))])


class Darts:
    """DARTS cells. `Size.channels` is C, that of the first normal cell; `Size.depth` is the number of cells.

    The cells at depth // 3 and 2 depth // 3 halve the map and double the channels. A single cell is thus a reduction
    cell, and its network that of SWAP's authors (pym1024/SWAP): no stem, the image is both inputs, no normal cell.
    Deeper networks are those on which NASLib computed the columns of NAS-Bench-301: their operations are in the form
    that DARTS searches with, batch-norm without weights, also after pooling. The single cell's are in the form that
    DARTS trains: batch-norm with weights, none after pooling.
    """

    name = "darts"
    full = Size(32, 8, 10)
    proxy = Size(3, 1, 10)

    def check(self, arch: str) -> str:
        """Return both cells with single spaces. The order of a node's items is kept, as tables are keyed by it.

        Raises:
            ValueError: naming the cell and the item that is not of the space.
        """
        return _text(parse(arch))

    def connected(self, arch: str) -> bool:
        """Whether both cells lead from an input to the output, so that networks of any depth do."""
        # Every node is part of the output: an edge from an input that is not `none` is a path already.
        return all(any(edge.input < INPUTS and edge.op != "none" for edge in cell) for cell in parse(arch))

    def sample(self, rng: np.random.Generator) -> str:
        """Draw both cells: two different inputs a node, any operation but `none`."""
        return _text([_random_cell(rng), _random_cell(rng)])

    def mutate(self, arch: str, rng: np.random.Generator) -> str:
        """Return `arch` with one operation or one input of one cell changed."""
        cells = list(parse(arch))
        which, index = int(rng.integers(2)), int(rng.integers(2 * len(NODES)))
        cell = list(cells[which])
        cell[index] = _mutated_edge(cells[which], index, rng)
        cells[which] = tuple(cell)
        return _text(cells)

    def crossover(self, a: str, b: str, rng: np.random.Generator) -> str:
        """Return cells whose every node, operations and inputs, is one parent's."""
        cells = []
        for one, two in zip(parse(a), parse(b), strict=True):
            firsts = range(0, 2 * len(NODES), 2)
            nodes = [(one if rng.random() < 0.5 else two)[first : first + 2] for first in firsts]
            cells.append(tuple(edge for node in nodes for edge in node))
        return _text(cells)

    def network(self, arch: str, size: Size) -> nn.Module:
        """Build the network, without the auxiliary head that DARTS trains with.

        The sides of the images (N, image_channels, H, W) must be even wherever a cell halves them.

        Raises:
            ValueError: if `arch` is not of the space, or `size` lacks the channels or the depth.
        """
        if not size.channels or not size.depth:
            raise ValueError(f"a DARTS network needs channels and a number of cells, at least 1 each: {size}")
        return _Network(*parse(arch), size.channels, size.depth, size)


def _relu_conv_norm(channels_in: int, channels_out: int) -> nn.Module:
    conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(channels_out))


class _FactorizedReduce(nn.Module):
    """Halves the map: one half of the channels sees the even pixels of each row and column, the other the odd ones."""

    def __init__(self, channels_in: int, channels_out: int, affine: bool) -> None:
        super().__init__()
        self.relu, self.shifted, self.concat = nn.ReLU(), Shifted(), Concat()
        self.even = nn.Conv2d(channels_in, channels_out // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(channels_in, channels_out - channels_out // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(channels_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        normed: Tensor = self.norm(self.concat(self.even(x), self.odd(self.shifted(x))))
        return normed


def _separable(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


def _operation(op: str, channels: int, stride: int, affine: bool) -> nn.Module:
    if op == "none":
        return Zero(stride)
    if op == "skip_connect":
        return nn.Identity() if stride == 1 else _FactorizedReduce(channels, channels, affine)
    kind, _, size = op.split("_")
    kernel = int(size[0])
    if kind == "dil":
        return nn.Sequential(*_separable(channels, kernel, stride, 2, affine))
    if kind == "sep":
        first = _separable(channels, kernel, stride, 1, affine)
        return nn.Sequential(*first, *_separable(channels, kernel, 1, 1, affine))
    maximum, mean = nn.MaxPool2d(kernel, stride, 1), nn.AvgPool2d(kernel, stride, 1, count_include_pad=False)
    pool = maximum if kind == "max" else mean
    return pool if affine else nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False))


class _CellNetwork(nn.Module):
    """Reads the outputs of the two cells before, the older one first."""

    def __init__(self, cell: Cell, inputs: Sequence[nn.Module], channels: int, reduction: bool, affine: bool) -> None:
        super().__init__()
        self.inputs, self.concat = nn.ModuleList(inputs), Concat()
        self.sources = [edge.input for edge in cell]
        strides = [2 if reduction and edge.input < INPUTS else 1 for edge in cell]
        edges = zip(cell, strides, strict=True)
        self.ops = nn.ModuleList(_operation(edge.op, channels, stride, affine) for edge, stride in edges)

    def forward(self, older: Tensor, newer: Tensor) -> Tensor:
        maps = [self.inputs[0](older), self.inputs[1](newer)]
        for i in range(0, len(self.sources), 2):
            maps.append(self.ops[i](maps[self.sources[i]]) + self.ops[i + 1](maps[self.sources[i + 1]]))
        output: Tensor = self.concat(*maps[INPUTS:])
        return output


class _Network(nn.Module):
    def __init__(self, normal: Cell, reduce: Cell, channels: int, depth: int, size: Size) -> None:
        super().__init__()
        alone = depth == 1
        older = newer = size.image_channels if alone else STEM * channels
        stem = nn.Conv2d(size.image_channels, newer, 3, padding=1, bias=False)
        self.stem = nn.Identity() if alone else nn.Sequential(stem, nn.BatchNorm2d(newer))
        self.cells = nn.ModuleList()
        halved = False
        for index in range(depth):
            reduction = index in (depth // 3, 2 * depth // 3)
            channels *= 2 if reduction else 1
            first = _FactorizedReduce(older, channels, True) if halved else _relu_conv_norm(older, channels)
            inputs, cell = [first, _relu_conv_norm(newer, channels)], reduce if reduction else normal
            self.cells.append(_CellNetwork(cell, inputs, channels, reduction, affine=alone))
            older, newer, halved = newer, len(NODES) * channels, reduction
        self.mean, self.classifier = GlobalMean(), nn.Linear(newer, size.classes)

    def forward(self, images: Tensor) -> Tensor:
        older = newer = self.stem(images)
        for cell in self.cells:
            older, newer = newer, cell(older, newer)
        logits: Tensor = self.classifier(self.mean(newer))
        return logits
