"""TransNAS-Bench-101: cells of four nodes on one skeleton (micro), and skeletons of one residual block (macro).

Duan et al., "TransNAS-Bench-101: Improving Transferability and Generalizability of Cross-Task Neural Architecture
Search", CVPR 2021. `64-41414-a_bc_def` is a cell: the operation of each of the six edges, node by node, with 0 none,
1 skip, 2 convolution 1x1, 3 convolution 3x3. `64-<modules>-basic` is a skeleton of 4 to 6 modules of two blocks each:
1 plain, 2 twice the channels, 3 half the sides, 4 both. The stem has 64 channels at a quarter of the sides.

The networks are those of classification: 256 x 256 images and one linear layer after the global mean. NASLib's tables
have 63 scene and 100 object classes (9 numbers for room layout), and parameters equal theirs to every printed digit;
theirs of jigsaw too, with one layer on the means of nine tiles. Their FLOPs are MACs + 2 x values after batch-norm +
values after ReLU, to 4 in 10,000. The heads of segmentation, normals and autoencoder are not built.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Final

import numpy as np
from torch import Tensor, nn

from factory.spaces.layers import Concat, GlobalMean, Shifted, Zero
from factory.spaces.nasbench201 import Cell, CellSpace, Residual, relu_conv_bn
from factory.spaces.protocol import Size

NONE: Final = "0"
OPERATIONS: Final = (NONE, "1", "2", "3")
BASE: Final = 64
SKELETON: Final = "41414"
MODULES: Final = "1234"
WIDER: Final = "24"
SMALLER: Final = "34"
BLOCKS: Final = 2  # a module
LENGTHS: Final = (4, 5, 6)
WIDENINGS: Final = (1, 2, 3)
REDUCTIONS: Final = (1, 2, 3, 4)


class FactorizedReduction(nn.Module):
    """The skip that changes shape: two 1x1 convolutions, of which the second sees the image shifted by one pixel."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        half = channels_out // 2
        self.relu = nn.ReLU()
        self.even = nn.Conv2d(channels_in, half, 1, 2, bias=False)
        self.odd = nn.Sequential(Shifted(), nn.Conv2d(channels_in, channels_out - half, 1, 2, bias=False))
        self.join = Concat()
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H / 2, W / 2); H and W are even."""
        x = self.relu(x)
        out: Tensor = self.norm(self.join(self.even(x), self.odd(x)))
        return out


class WideZero(nn.Module):
    """The operation `none` where a cell halves the sides and doubles the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = Zero(2)
        self.join = Concat()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to zeros (N, 2 C, ceil(H / 2), ceil(W / 2))."""
        zeros = self.zero(x)
        out: Tensor = self.join(zeros, zeros)
        return out


def _basic(channels_in: int, channels_out: int, stride: int) -> Residual:
    if stride == 1 and channels_in == channels_out:
        return Residual(channels_in, channels_out, stride, nn.Identity())
    convolution = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
    return Residual(channels_in, channels_out, stride, nn.Sequential(convolution, nn.BatchNorm2d(channels_out)))


def _cell(operations: Sequence[str], channels_in: int, channels_out: int, stride: int) -> Cell:
    def make(op: str, source: int) -> nn.Module:
        # Of the cells' skeleton: a cell that has stride 2 also doubles the channels, on the edges from its input.
        first = source == 0 and stride == 2
        channels, step = (channels_in, stride) if first else (channels_out, 1)
        match op:
            case "1":
                return FactorizedReduction(channels, channels_out) if first else nn.Identity()
            case "2":
                return relu_conv_bn(channels, channels_out, 1, step)
            case "3":
                return relu_conv_bn(channels, channels_out, 3, step)
            case _:
                return WideZero() if first else Zero(1)

    return Cell(operations, NONE, make)


def _network(modules: str, block: Callable[[int, int, int], nn.Module], size: Size) -> nn.Sequential:
    width = BASE if size.channels is None else size.channels
    if width < 2:
        raise ValueError(f"the stem needs at least two channels, found {size}")
    if size.depth is not None:
        raise ValueError(f"the depth is in the architecture: give None, found {size}")
    layers: list[nn.Module] = [
        nn.Conv2d(size.image_channels, width // 2, 3, 2, 1, bias=False),
        nn.BatchNorm2d(width // 2),
        relu_conv_bn(width // 2, width, 3, 2),
    ]
    for module in modules:
        target = 2 * width if module in WIDER else width
        layers.append(block(width, target, 2 if module in SMALLER else 1))
        layers += [block(target, target, 1) for _ in range(BLOCKS - 1)]
        width = target
    return nn.Sequential(*layers, GlobalMean(), nn.Linear(width, size.classes))


def _parts(arch: str) -> list[str]:
    parts = arch.strip().split("-")
    if len(parts) != 3 or parts[0] != str(BASE):
        raise ValueError(f"expected three parts, '{BASE}-<modules>-<blocks>', found {arch!r}")
    return parts


class TransNasMicro(CellSpace):
    """All 4,096 cells. `Size.channels` is the width of the stem, of which the last module has eight times as much."""

    name = "transnas-micro"
    full = Size(BASE, None, 63)
    proxy = Size(8, None, 63)
    operations = OPERATIONS

    def parse(self, arch: str) -> list[str]:
        """Read the operation of each edge.

        Raises:
            ValueError: naming the part that is not of the space.
        """
        _, modules, cell = _parts(arch)
        if modules != SKELETON:
            raise ValueError(f"modules {modules!r} are not in the space: cells are stacked as {SKELETON!r}")
        nodes = cell.split("_")
        if [len(node) for node in nodes] != [1, 2, 3]:
            raise ValueError(f"expected a cell like 'a_bc_def', found {cell!r}")
        for op in "".join(nodes):
            if op not in OPERATIONS:
                raise ValueError(f"operation {op!r} of {cell!r} is not in the space: choose one of {OPERATIONS}")
        return list("".join(nodes))

    def text(self, operations: Sequence[str]) -> str:
        """Write what `parse` reads."""
        a, b, c, *rest = operations
        return f"{BASE}-{SKELETON}-{a}_{b}{c}_{''.join(rest)}"

    def network(self, arch: str, size: Size) -> nn.Sequential:
        """Build stem, ten cells and head; the sides of images are multiples of 32.

        Raises:
            ValueError: where `size` has less than two channels or any depth.
        """
        operations = self.parse(arch)
        return _network(SKELETON, lambda *shape: _cell(operations, *shape), size)


def _fault(modules: str) -> str | None:
    """What keeps the modules out of the space."""
    for module in modules:
        if module not in MODULES:
            return f"module {module!r} of {modules!r} is not in the space: choose one of {tuple(MODULES)}"
    for what, found, allowed in (
        ("modules", len(modules), LENGTHS),
        ("modules that widen (2, 4)", sum(module in WIDER for module in modules), WIDENINGS),
        ("modules that halve the sides (3, 4)", sum(module in SMALLER for module in modules), REDUCTIONS),
    ):
        if found not in allowed:
            return f"{modules!r} has {found} {what}: choose one of {allowed}"
    return None


@cache
def skeletons() -> tuple[str, ...]:
    """The modules of all 3,256 skeletons."""
    every = ("".join(modules) for length in LENGTHS for modules in product(MODULES, repeat=length))
    return tuple(modules for modules in every if _fault(modules) is None)


class TransNasMacro:
    """All skeletons. `Size.channels` is the width of the stem, which each module of type 2 or 4 doubles.

    Whatever takes an architecture raises ValueError as `parse` does.
    """

    name = "transnas-macro"
    full = Size(BASE, None, 63)
    proxy = Size(8, None, 63)

    def parse(self, arch: str) -> str:
        """Read the modules.

        Raises:
            ValueError: naming the part that is not of the space.
        """
        _, modules, block = _parts(arch)
        if block != "basic":
            raise ValueError(f"block {block!r} is not in the space: it is 'basic'")
        if fault := _fault(modules):
            raise ValueError(fault)
        return modules

    def text(self, modules: str) -> str:
        """Write what `parse` reads."""
        return f"{BASE}-{modules}-basic"

    def check(self, arch: str) -> str:
        """Return the architecture without white space around it."""
        return self.text(self.parse(arch))

    def connected(self, arch: str) -> bool:
        """Return True: no skeleton is cut."""
        return bool(self.parse(arch))

    def sample(self, rng: np.random.Generator) -> str:
        """Draw uniformly from all skeletons, most of which have six modules."""
        return self.text(skeletons()[int(rng.integers(len(skeletons())))])

    def mutate(self, arch: str, rng: np.random.Generator) -> str:
        """Return the architecture with one module changed, added or left out; every such neighbour is as likely."""
        modules = self.parse(arch)
        near = {modules[:at] + new + modules[at + 1 :] for at in range(len(modules)) for new in ("", *MODULES)}
        near |= {modules[:at] + new + modules[at:] for at in range(len(modules) + 1) for new in MODULES}
        fitting = sorted(each for each in near - {modules} if _fault(each) is None)
        return self.text(fitting[int(rng.integers(len(fitting)))])

    def crossover(self, a: str, b: str, rng: np.random.Generator) -> str:
        """Take the length from either parent and each module from a parent that has one there."""
        parents = self.parse(a), self.parse(b)
        while True:
            length = len(parents[int(rng.integers(2))])
            choices = [[parent[at] for parent in parents if at < len(parent)] for at in range(length)]
            child = "".join(choice[int(rng.integers(len(choice)))] for choice in choices)
            if _fault(child) is None:
                return self.text(child)

    def network(self, arch: str, size: Size) -> nn.Sequential:
        """Build stem, two residual blocks a module, and head.

        Raises:
            ValueError: where `size` has less than two channels or any depth.
        """
        return _network(self.parse(arch), _basic, size)
