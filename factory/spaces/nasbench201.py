"""NAS-Bench-201: cells of four nodes and five operations.

Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020.
An architecture names the operation of each of the six edges, node by node, as
`|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`; `~k` is the node that the edge comes from.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from torch import Tensor, nn

from factory.spaces.layers import GlobalMean, Zero
from factory.spaces.protocol import Size

NONE: Final = "none"
OPERATIONS: Final = (NONE, "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES: Final = 4
EDGES: Final = tuple((source, target) for target in range(1, NODES) for source in range(target))
STAGES: Final = 3


def relu_conv_bn(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
    """ReLU, a padded convolution without bias, batch normalisation."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
    )


class Cell(nn.Module):
    """Four nodes, each the sum of the edges into it; the first is the input and the last the output."""

    def __init__(self, operations: Sequence[str], none: str, make: Callable[[str, int], nn.Module]) -> None:
        """Take an operation for each of `EDGES`; `make` gets one of them and the node that its edge comes from.

        Edges of operation `none` are left out; `make` is asked for one, from the input, only where a node has no other.
        """
        super().__init__()
        self.links: list[tuple[int, int]] = []
        self.edges = nn.ModuleList()
        for node in range(1, NODES):
            into = [(op, edge) for op, edge in zip(operations, EDGES, strict=True) if edge[1] == node]
            for op, edge in [each for each in into if each[0] != none] or [(none, (0, node))]:
                self.links.append(edge)
                self.edges.append(make(op, edge[0]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the edges into the last node."""
        nodes = {0: x}
        for (source, target), edge in zip(self.links, self.edges, strict=True):
            term = edge(nodes[source])
            nodes[target] = nodes[target] + term if target in nodes else term
        return nodes[NODES - 1]


class CellSpace(ABC):
    """A space of cells: one of `operations` on each of `EDGES`. The first operation is none.

    Whatever takes an architecture raises ValueError as `parse` does.
    """

    operations: tuple[str, ...]

    @abstractmethod
    def parse(self, arch: str) -> list[str]:
        """Read the operation of each of `EDGES`.

        Raises:
            ValueError: naming the part that is not of the space.
        """

    @abstractmethod
    def text(self, operations: Sequence[str]) -> str:
        """Write what `parse` reads."""

    def check(self, arch: str) -> str:
        """Return the architecture without white space around it."""
        return self.text(self.parse(arch))

    def connected(self, arch: str) -> bool:
        """Whether operations other than none lead from the cell's input to its output."""
        reached = {0}
        for op, (source, target) in zip(self.parse(arch), EDGES, strict=True):
            if op != self.operations[0] and source in reached:
                reached.add(target)
        return NODES - 1 in reached

    def sample(self, rng: np.random.Generator) -> str:
        """Draw each edge's operation uniformly."""
        return self.text([self.operations[int(rng.integers(len(self.operations)))] for _ in EDGES])

    def mutate(self, arch: str, rng: np.random.Generator) -> str:
        """Return the architecture with another operation on one edge."""
        operations = self.parse(arch)
        edge = int(rng.integers(len(EDGES)))
        others = [op for op in self.operations if op != operations[edge]]
        operations[edge] = others[int(rng.integers(len(others)))]
        return self.text(operations)

    def crossover(self, a: str, b: str, rng: np.random.Generator) -> str:
        """Take each edge's operation from either parent, with even odds."""
        return self.text([pair[int(rng.integers(2))] for pair in zip(self.parse(a), self.parse(b), strict=True)])


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            relu_conv_bn(channels_in, channels_out, 3, stride), relu_conv_bn(channels_out, channels_out, 3, 1)
        )
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels_out, ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.shortcut(x) + self.branch(x)
        return out


def _reduction(channels: int) -> Residual:
    # ceil_mode only matters on odd sides, which the benchmark's images do not have: without it the paths differ there.
    pool = nn.AvgPool2d(2, 2, ceil_mode=True)
    shortcut = nn.Sequential(pool, nn.Conv2d(channels, 2 * channels, 1, bias=False))
    return Residual(channels, 2 * channels, 2, shortcut)


def _make(op: str, channels: int) -> nn.Module:
    match op:
        case "skip_connect":
            return nn.Identity()
        case "nor_conv_1x1":
            return relu_conv_bn(channels, channels, 1, 1)
        case "nor_conv_3x3":
            return relu_conv_bn(channels, channels, 3, 1)
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        case _:
            return Zero(1)


class NasBench201(CellSpace):
    """All 15,625 cells. `Size.channels` is the width of the first stage, `Size.depth` the number of cells a stage."""

    name = "nasbench201"
    full = Size(16, 5, 10)
    proxy = Size(3, 5, 10)
    operations = OPERATIONS

    def parse(self, arch: str) -> list[str]:
        """Read the operation of each of `EDGES`.

        Raises:
            ValueError: naming the node or the operation that is not of the space.
        """
        nodes = arch.strip().split("+")
        if len(nodes) != NODES - 1:
            raise ValueError(f"expected {NODES - 1} nodes joined by '+', found {len(nodes)} in {arch!r}")
        operations = []
        for target, node in enumerate(nodes, 1):
            edges = [edge.rpartition("~") for edge in node[1:-1].split("|")]
            sources = [source for _, _, source in edges]
            if node[:1] + node[-1:] != "||" or sources != [str(source) for source in range(target)]:
                form = "".join(f"|op~{source}" for source in range(target)) + "|"
                raise ValueError(f"expected a node like {form!r}, found {node!r}")
            for op, _, _ in edges:
                if op not in OPERATIONS:
                    raise ValueError(f"operation {op!r} of {node!r} is not in the space: choose one of {OPERATIONS}")
                operations.append(op)
        return operations

    def text(self, operations: Sequence[str]) -> str:
        """Write what `parse` reads."""
        nodes = ["|"] * (NODES - 1)
        for op, (source, target) in zip(operations, EDGES, strict=True):
            nodes[target - 1] += f"{op}~{source}|"
        return "+".join(nodes)

    def network(self, arch: str, size: Size) -> nn.Sequential:
        """Build stem, three stages of cells with a reduction between each two, and head.

        Raises:
            ValueError: where `size` lacks channels or depth.
        """
        operations = self.parse(arch)
        if size.channels is None or size.depth is None:
            raise ValueError(f"a network of {self.name} needs channels and depth, found {size}")

        def cell(channels: int) -> Cell:
            return Cell(operations, NONE, lambda op, _source: _make(op, channels))

        width = size.channels
        layers: list[nn.Module] = [nn.Conv2d(size.image_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)]
        for stage in range(STAGES):
            if stage:
                layers.append(_reduction(width))
                width *= 2
            layers += [cell(width) for _ in range(size.depth)]
        return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), GlobalMean(), nn.Linear(width, size.classes))
