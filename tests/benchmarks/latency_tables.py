"""Latencies of tabular spaces on many devices, with what the latency of their architectures is a sum of."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from factory.cost.latency import Floats
from factory.spaces.nasbench201 import EDGES, NODES, NONE, OPERATIONS, NasBench201

ESTIMATED: Final = ("fpga", "eyeriss")  # by a model of the hardware: the rest were measured
BATCHES: Final = ("1", "32", "256")

# FBNet (Wu et al., CVPR 2019, table 1): channels, blocks and first stride of each stage behind the stem, whose 16
# channels are at half the side of 224-pixel pictures; and kernel, expansion and groups of each block, skip last.
STAGES: Final = ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))
BLOCKS: Final = ((3, 1, 1), (3, 1, 2), (3, 3, 1), (3, 6, 1), (5, 1, 1), (5, 1, 2), (5, 3, 1), (5, 6, 1))
SKIP: Final = len(BLOCKS)


@dataclass(frozen=True)
class LatencyTable:
    """N architectures on D devices.

    Attributes:
        name: of the space.
        devices: names as in the file.
        ms: float64 (N, D).
        features: float64 (N, F), the first 1, then what a device is charged for.
        operators: float64 (N, K), how often each operator occurs, and 1.
        places: float64 (N, P), 1 and whether each operator is in each place: what a table of every place charges for.
        macs: float64 (N,), of one picture.
        params: float64 (N,).
    """

    name: str
    devices: tuple[str, ...]
    ms: Floats
    features: Floats
    operators: Floats
    places: Floats
    macs: Floats
    params: Floats

    def others(self, device: str) -> list[int]:
        """Columns of all other devices: other batch sizes of the same one are left out."""
        return [i for i, name in enumerate(self.devices) if machine(name) != machine(device)]


def machine(device: str) -> str:
    """The device of a setting, without its batch size."""
    head, _, tail = device.rpartition("_")
    return head if tail in BATCHES else device


def is_cpu_or_gpu(device: str) -> bool:
    """Whether it is one of the desktop and server processors and graphics cards."""
    return machine(device).removesuffix("_rtx").startswith(("silver", "gold", "1080ti", "2080ti", "titan"))


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _with_one(columns: list[list[float]]) -> Floats:
    rows = np.array(columns, np.float64)
    return np.column_stack([np.ones(len(rows)), rows])


def _places(choices: list[list[int]]) -> Floats:
    """1, and one indicator for each operator in each place, of networks given as one operator's number a place."""
    rows = np.array(choices)
    indicators = (rows[:, :, None] == np.arange(rows.max() + 1)).reshape(len(rows), -1)
    return np.column_stack([np.ones(len(rows)), indicators])


def _reached(operations: list[str]) -> list[bool]:
    """Of each edge, whether it lies on a way from the cell's input to its output: what dead code is left of."""
    ahead, behind = {0}, {NODES - 1}
    for op, (source, target) in zip(operations, EDGES, strict=True):
        if op != NONE and source in ahead:
            ahead.add(target)
    for op, (source, target) in reversed(list(zip(operations, EDGES, strict=True))):
        if op != NONE and target in behind:
            behind.add(source)
    return [
        op != NONE and source in ahead and target in behind
        for op, (source, target) in zip(operations, EDGES, strict=True)
    ]


def _cell(arch: str) -> tuple[list[float], list[float]]:
    """Features and operators of a NAS-Bench-201 cell.

    Operations by kind, those of them on a way from input to output by kind, the longest chain of operations that
    compute, and sums.
    """
    operations = NasBench201().parse(arch)
    reached = _reached(operations)
    kinds = OPERATIONS[1:]
    present = [float(operations.count(kind)) for kind in kinds]
    alive = [float(sum(op == kind and on for op, on in zip(operations, reached, strict=True))) for kind in kinds]
    depth, into = [0] * NODES, [0] * NODES
    for op, (source, target) in zip(operations, EDGES, strict=True):
        if op != NONE:
            into[target] += 1
            depth[target] = max(depth[target], depth[source] + (op != "skip_connect"))
    sums = sum(max(0, number - 1) for number in into)
    return [*present, *alive, float(depth[-1]), float(sums)], present


def nasbench201(bench: Path) -> LatencyTable:
    """NAS-Bench-201 on 27 device settings, degenerate cells (all none or skip) kept."""
    rows = _read(bench / "nb201_latency_dev.csv")
    cells = {row["idx"]: row for row in _read(bench / "nb201_dev.csv")}
    devices = tuple(name for name in rows[0] if name != "idx")
    archs = [cells[row["idx"]]["arch"] for row in rows]
    made = [_cell(arch) for arch in archs]
    return LatencyTable(
        "nasbench201",
        devices,
        np.array([[float(row[name]) for name in devices] for row in rows]),
        _with_one([features for features, _ in made]),
        _with_one([operators for _, operators in made]),
        _places([[OPERATIONS.index(op) for op in NasBench201().parse(arch)] for arch in archs]),
        np.array([float(cells[row["idx"]]["macs_m"]) * 1e6 for row in rows]),
        np.array([float(cells[row["idx"]]["params_m"]) * 1e6 for row in rows]),
    )


def _block(choice: int, read: int, written: int, stride: int, side: int) -> NDArray[np.float64]:
    """Blocks, grouped ones, skips that convolve, MACs of 1x1, 3x3 and 5x5 convolutions, values, parameters."""
    out = (side // stride) ** 2
    if choice == SKIP:
        convolves = read != written or stride > 1
        macs = read * written * out if convolves else 0
        return np.array([0, 0, convolves, macs, 0, 0, written * out * convolves, read * written * convolves])
    kernel, expansion, groups = BLOCKS[choice]
    middle = read * expansion
    pointwise = (middle * read * side**2 + middle * written * out) / groups
    depthwise = middle * kernel**2 * out
    values = middle * side**2 + (middle + written) * out
    params = (middle * read + middle * written) / groups + middle * kernel**2
    return np.array(
        [1, groups > 1, 0, pointwise, depthwise * (kernel == 3), depthwise * (kernel == 5), values, params], np.float64
    )


def _fbnet(arch: str) -> tuple[NDArray[np.float64], list[float]]:
    choices = list(map(int, arch.split()))
    total, read, side, layer = np.zeros(8), 16, 112, 0
    for channels, number, first in STAGES:
        for index in range(number):
            stride = first if index == 0 else 1
            total += _block(choices[layer], read, channels, stride, side)
            read, side, layer = channels, side // stride, layer + 1
    return total, [float(choices.count(kind)) for kind in range(SKIP + 1)]


def fbnet(bench: Path) -> LatencyTable:
    """FBNet's space on 17 devices."""
    rows = _read(bench / "fbnet_latency.csv")
    devices = tuple(name for name in rows[0] if name != "arch")
    made = [_fbnet(row["arch"]) for row in rows]
    counted = np.array([features for features, _ in made])
    return LatencyTable(
        "fbnet",
        devices,
        np.array([[float(row[name]) for name in devices] for row in rows]),
        np.column_stack([np.ones(len(rows)), counted]),
        _with_one([operators for _, operators in made]),
        _places([list(map(int, row["arch"].split())) for row in rows]),
        counted[:, 3:6].sum(1),
        counted[:, 7],
    )
