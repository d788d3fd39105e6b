"""The cells of NAS-Bench-101 (arXiv 1902.09635): graphs of seven vertices, at most nine edges between in- and output.

An architecture prints as the 7 x 7 adjacency matrix, row by row, and the vertices' names:
    0110000001100000001000000010000000100000010000000,input conv3x3-bn-relu maxpool3x3 ... output
A vertex sums its inputs; the output concatenates its own, to which the cell's input is added where it leads there.
"""

import re
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
from torch import Tensor, nn

from factory.spaces.layers import Concat, GlobalMean, by_copy, side_by_side
from factory.spaces.protocol import Size

OPS: Final = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
VERTICES: Final = 7
EDGES: Final = 9  # counted after vertices on no path from input to output are dropped
STACKS: Final = 3

Edge = tuple[int, int]  # from a vertex to a later one
_SLOTS: Final = tuple(combinations(range(VERTICES), 2))


class Cell(NamedTuple):
    """Names and edges of the vertices in order; the first is the input, the last the output."""

    names: tuple[str, ...]
    edges: frozenset[Edge]

    def __str__(self) -> str:
        count = range(len(self.names))
        return "".join(str(int((i, j) in self.edges)) for i in count for j in count) + "," + " ".join(self.names)


def parse(arch: str) -> Cell:
    """Read a cell.

    Raises:
        ValueError: naming the part that is not of the form above, or the number of edges if there are too many.
    """
    matrix, comma, names = arch.strip().partition(",")
    if not comma or not re.fullmatch(f"[01]{{{VERTICES**2}}}", matrix):
        raise ValueError(f"expected {VERTICES**2} digits 0 or 1 and a comma, found {matrix!r}")
    edges = frozenset(divmod(index, VERTICES) for index, digit in enumerate(matrix) if digit == "1")
    cell = Cell(tuple(names.split()), edges)
    back = sorted(edges.difference(_SLOTS))
    if back:
        raise ValueError(f"the edge from vertex {back[0][0]} to {back[0][1]} does not lead to a later vertex")
    if len(cell.names) != VERTICES or cell.names[0] != "input" or cell.names[-1] != "output":
        raise ValueError(f"expected {VERTICES} names from 'input' to 'output', found {names!r}")
    for name in cell.names[1:-1]:
        if name not in OPS:
            raise ValueError(f"{name!r} is not an operation: choose one of {', '.join(OPS)}")
    used = len(_pruned(cell).edges)
    if used > EDGES:
        raise ValueError(f"{used} edges between input and output, but the space allows {EDGES}")
    return cell


def _pruned(cell: Cell) -> Cell:
    """Return the part on paths from input to output, vertices renumbered; without edges if there is no path."""
    last = len(cell.names) - 1
    after, before = {0}, {last}
    for i, j in sorted(cell.edges):
        if i in after:
            after.add(j)
    for i, j in sorted(cell.edges, key=lambda edge: -edge[1]):
        if j in before:
            before.add(i)
    number = {vertex: index for index, vertex in enumerate(sorted(after & before))}
    edges = frozenset((number[i], number[j]) for i, j in cell.edges if i in number and j in number)
    return Cell(tuple(cell.names[vertex] for vertex in number), edges)


def _valid(cell: Cell) -> bool:
    return 0 < len(_pruned(cell).edges) <= EDGES


class NasBench101:
    """Cells of NAS-Bench-101. `Size.channels` is the stem's width, `Size.depth` the number of cells in each stack.

    The three stacks are 1, 2 and 4 times as wide as the stem; the second and the third first halve the map.
    """

    name = "nasbench101"
    full = Size(128, 3, 10)
    proxy = Size(8, 3, 10)

    def check(self, arch: str) -> str:
        """Return the string without superfluous spaces. Unused vertices are kept, as tables are keyed by it.

        Raises:
            ValueError: naming the part that is not of the space.
        """
        return str(parse(arch))

    def connected(self, arch: str) -> bool:
        """Whether any path leads from the input to the output."""
        return bool(_pruned(parse(arch)).edges)

    def sample(self, rng: np.random.Generator) -> str:
        """Draw every edge with probability 1/2 and every operation, until the cell is connected and small enough."""
        while True:
            edges = frozenset(slot for slot in _SLOTS if rng.random() < 0.5)
            ops = (OPS[int(rng.integers(len(OPS)))] for _ in range(VERTICES - 2))
            cell = Cell(("input", *ops, "output"), edges)
            if _valid(cell):
                return str(cell)

    def mutate(self, arch: str, rng: np.random.Generator) -> str:
        """Return `arch` with one edge added or removed or one operation changed, connected and small enough."""
        cell = parse(arch)
        while True:
            names, edges = list(cell.names), cell.edges
            if rng.random() < 0.5:
                edges ^= {_SLOTS[int(rng.integers(len(_SLOTS)))]}
            else:
                vertex = int(rng.integers(1, VERTICES - 1))
                others = [op for op in OPS if op != names[vertex]]
                names[vertex] = others[int(rng.integers(len(others)))]
            child = Cell(tuple(names), edges)
            if _valid(child):
                return str(child)

    def crossover(self, a: str, b: str, rng: np.random.Generator) -> str:
        """Return a cell whose every vertex, name and incoming edges, is one parent's; `a` if neither is connected."""
        one, two = parse(a), parse(b)
        for mask in rng.permutation(2 ** (VERTICES - 1)):
            parents = [one, *((one, two)[int(mask) >> bit & 1] for bit in range(VERTICES - 1))]
            names = tuple(parent.names[vertex] for vertex, parent in enumerate(parents))
            child = Cell(names, frozenset((i, j) for i, j in _SLOTS if (i, j) in parents[j].edges))
            if _valid(child):
                return str(child)
        return str(one)

    def network(self, arch: str, size: Size) -> nn.Module:
        """Build the network for images (N, image_channels, H, W) of at least 4 x 4 pixels.

        Raises:
            ValueError: if `arch` is not of the space or not connected, or `size` lacks the channels or the depth, or
                if its channels are too few to be divided among the vertices before the output.
        """
        if not size.channels or not size.depth:
            raise ValueError(f"a NAS-Bench-101 network needs channels and cells in a stack, at least 1 each: {size}")
        cell = _pruned(parse(arch))
        if not cell.edges:
            raise ValueError(f"no path leads from the input to the output of {arch!r}")
        layers: list[nn.Module] = [_conv(size.image_channels, size.channels, 3)]
        width_in = size.channels
        for stack in range(STACKS):
            width = size.channels * 2**stack
            layers += [nn.MaxPool2d(2, 2)] if stack else []
            for _ in range(size.depth):
                layers.append(_CellNetwork(cell, width_in, width))
                width_in = width
        return nn.Sequential(*layers, GlobalMean(), nn.Linear(width_in, size.classes))


def vertex_channels(cell: Cell, channels_in: int, channels_out: int) -> list[int]:
    """Return the width of every vertex of a pruned cell.

    Vertices before the output share its width, the first ones getting the remainder; any other is as wide as the
    widest that it leads to.

    Raises:
        ValueError: if there are more vertices before the output than channels to share.
    """
    last = len(cell.names) - 1
    finals = [vertex for vertex in range(1, last) if (vertex, last) in cell.edges]
    if channels_out < len(finals):
        raise ValueError(
            f"{channels_out} channels cannot be divided among {len(finals)} vertices before the output: "
            f"the network needs at least {len(finals)}"
        )
    widths = [channels_in, *([0] * (last - 1)), channels_out]
    for index, vertex in enumerate(finals):
        share, remainder = divmod(channels_out, len(finals))
        widths[vertex] = share + (index < remainder)
    for vertex in reversed(range(1, last)):
        if vertex not in finals:
            widths[vertex] = max(widths[j] for i, j in cell.edges if i == vertex)
    return widths


class Truncate(nn.Module):
    """Keeps the first `channels` channels, of each copy where a score stacks several."""

    copies = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, channels, H, W)."""
        if self.copies == 1:
            return x[:, : self.channels]
        return side_by_side(by_copy(x, self.copies)[..., : self.channels].contiguous())


def _conv(channels_in: int, channels_out: int, kernel: int) -> nn.Module:
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU())


class _Vertex(nn.Module):
    """Sums its inputs, the cell's projected, others truncated to its own width, and applies its operation."""

    def __init__(self, name: str, sources: list[int], widths: list[int], width: int) -> None:
        super().__init__()
        self.sources, self.inputs = sources, nn.ModuleList()
        for source in sources:
            fitting = nn.Identity() if widths[source] == width else Truncate(width)
            self.inputs.append(fitting if source else _conv(widths[0], width, 1))
        pool = nn.MaxPool2d(3, 1, 1)
        self.operation = pool if name == "maxpool3x3" else _conv(width, width, 3 if name == "conv3x3-bn-relu" else 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        total = self.inputs[0](maps[self.sources[0]])
        for fit, source in zip(self.inputs[1:], self.sources[1:], strict=True):
            total = total + fit(maps[source])
        value: Tensor = self.operation(total)
        return value


class _CellNetwork(nn.Module):
    def __init__(self, cell: Cell, channels_in: int, channels_out: int) -> None:
        super().__init__()
        last = len(cell.names) - 1
        widths = vertex_channels(cell, channels_in, channels_out)
        self.vertices, self.concat = nn.ModuleList(), Concat()
        for vertex in range(1, last):
            sources = [i for i in range(vertex) if (i, vertex) in cell.edges]
            self.vertices.append(_Vertex(cell.names[vertex], sources, widths, widths[vertex]))
        self.finals = [vertex for vertex in range(1, last) if (vertex, last) in cell.edges]
        self.projection = _conv(channels_in, channels_out, 1) if (0, last) in cell.edges else None

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for vertex in self.vertices:
            maps.append(vertex(maps))
        outputs = [self.concat(*(maps[vertex] for vertex in self.finals))] if self.finals else []
        outputs += [] if self.projection is None else [self.projection(x)]
        output: Tensor = outputs[0] if len(outputs) == 1 else outputs[0] + outputs[1]
        return output
