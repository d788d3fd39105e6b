"""SWAP-Score against a straightforward reference: hook every ReLU, concatenate, sign, unique over rows.

python -m tests.benchmarks score-speed

One thread, the same networks, images and weights on both sides, in one run, in CPU seconds. Also: what packing and
counting add to a bare forward pass of the same stacked networks, the distance to what the arithmetic alone would take,
and peak memory.
"""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from factory.evidence.pictures import load_pictures
from factory.score.protocol import FACTORY, PAPER, ScoreProtocol
from factory.score.stack import Stack
from factory.score.swap import Counter, copies_together, swap_score
from factory.spaces.counting import count
from factory.spaces.darts import Darts
from factory.spaces.nasbench201 import NasBench201
from factory.spaces.protocol import Size, Space

SEED: Final = 0
SHARED: Final = Path(__file__).parents[3] / "shared"
TABLE: Final = SHARED / "bench" / "darts1000_c10.csv"
REAL: Final = SHARED / "data" / "cifar10" / "cifar10_lossless_subset.npz"


@dataclass(frozen=True)
class Case:
    """A protocol on some networks of a space."""

    name: str
    space: Space
    size: Size
    networks: int
    protocol: ScoreProtocol


def _full(samples: int) -> ScoreProtocol:
    return replace(FACTORY, samples=samples, repeats=1, image_size=32)


CASES: Final = (
    Case("DARTS, paper, 32 repeats", Darts(), Darts().proxy, 20, PAPER),
    Case("NAS-Bench-201 full, S=16", NasBench201(), NasBench201().full, 6, _full(16)),
    Case("NAS-Bench-201 full, S=32", NasBench201(), NasBench201().full, 6, _full(32)),
    Case("NAS-Bench-201 full, S=64", NasBench201(), NasBench201().full, 6, _full(64)),
)


class Deaf:
    """Hears every ReLU and does nothing: the bare forward pass."""

    def record(self, x: Tensor) -> None:
        pass

    again = record


def pictures(case: Case) -> Tensor:
    """Real ones where they are at hand."""
    return load_pictures(REAL if REAL.exists() else None, case.protocol.samples, 32, SEED)


def archs(case: Case) -> list[str]:
    """The first cells of SWAP's own benchmark where it is at hand, else random ones; random ones of other spaces."""
    if case.space.name == "darts" and TABLE.exists():
        with TABLE.open() as file:
            return [f"{row['normal']} | {row['reduce']}" for row in islice(csv.DictReader(file), case.networks)]
    rng, found = np.random.default_rng(SEED), []
    while len(found) < case.networks:
        arch = case.space.sample(rng)
        if case.space.connected(arch):
            found.append(arch)
    return found


def builder(case: Case, arch: str) -> Callable[[], nn.Module]:
    return lambda: case.space.network(arch, case.size)


def reference(build: Callable[[], nn.Module], images: Tensor, repeats: int) -> float:
    """The definition, written straight down, as the authors' released code does it."""
    network, counts = build().train(), []
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    values: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _m, _i, out: values.append(out.detach()))
    for repeat in range(repeats):
        generator = torch.Generator().manual_seed(SEED * 1000 + repeat)
        flat = torch.randn(sum(m.weight.numel() for m in layers), generator=generator)
        for layer, piece in zip(layers, flat.split([m.weight.numel() for m in layers]), strict=True):
            layer.weight.data.copy_(piece.view_as(layer.weight))
            if layer.bias is not None:
                layer.bias.data.zero_()
        values.clear()
        with torch.no_grad():
            network(images)
        patterns = torch.sign(torch.cat([value.reshape(len(images), -1) for value in values], 1))
        counts.append(torch.unique(patterns.T, dim=0).size(0))
    return sum(counts) / repeats


def ours(build: Callable[[], nn.Module], images: Tensor, protocol: ScoreProtocol) -> float:
    score = swap_score(build, images, SEED, protocol)
    assert score is not None
    return score.swap


@torch.inference_mode()
def stacked(build: Callable[[], nn.Module], images: Tensor, protocol: ScoreProtocol, pack: bool) -> tuple[float, float]:
    """Seconds of the forward passes, and of drawing the weights; with `pack`, patterns are packed, not counted."""
    with torch.device("meta"):
        network = build()
    copies = copies_together(network, images, protocol.repeats)
    stack, passes, drawing = Stack(network, copies, protocol.batch_norm), 0.0, 0.0
    for first in range(0, protocol.repeats, copies):
        start = time.process_time()
        stack.draw(range(first, first + copies), False, images)
        middle = time.process_time()
        stack(images, Counter(copies) if pack else Deaf())
        passes, drawing = passes + time.process_time() - middle, drawing + middle - start
    return passes, drawing


def gflops() -> float:
    """What one thread multiplies in float32, in 10^9 operations a second."""
    a = torch.randn(1024, 1024)
    times = []
    for _ in range(5):
        start = time.process_time()
        torch.mm(a, a)
        times.append(time.process_time() - start)
    return 2 * 1024**3 / min(times) / 1e9


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def peak(case: int, side: str) -> float:
    """Peak memory in MB that scoring one network adds to a process that holds the network and the images."""
    code = f"from tests.benchmarks.score_speed import grow; print(grow({case}, {side!r}))"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def grow(index: int, side: str) -> float:
    """What `peak` measures, in this process."""
    torch.set_num_threads(1)
    case = CASES[index]
    images = pictures(case)
    build = builder(case, archs(case)[0])
    small = replace(case.protocol, repeats=1)
    (reference(build, images[:2], 1) if side == "reference" else ours(build, images[:2], replace(small, samples=2)))
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident("VmHWM")
    (reference(build, images, 2) if side == "reference" else ours(build, images, case.protocol))
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """A line of /proc/self/status in MB."""
    status = Path("/proc/self/status").read_text()
    return next(float(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024


def measure(index: int) -> dict[str, float | str]:
    """Both sides of one case, network by network in turn; medians over networks."""
    case, rows = CASES[index], []
    images, rate = pictures(case), gflops()
    for arch in archs(case):
        build, protocol = builder(case, arch), case.protocol
        ours(build, images, replace(protocol, repeats=min(2, protocol.repeats)))  # primitives are made once
        slow = timed(lambda b=build: reference(b, images, case.protocol.repeats))  # type: ignore[misc]
        fast = float(np.median([timed(lambda b=build: ours(b, images, case.protocol)) for _ in range(3)]))  # type: ignore[misc]
        bare = min(stacked(build, images, protocol, False)[0] for _ in range(3))
        packed = min(stacked(build, images, protocol, True)[0] for _ in range(3))
        macs = count(build, 3, 32).macs * len(images) * protocol.repeats
        rows.append((slow, fast, bare, packed, 2 * macs / rate / 1e9))
    slow, fast, bare, packed, floor = np.median(rows, 0)
    ratio = float(np.median([row[0] / row[1] for row in rows]))
    overhead = float(np.median([row[1] / row[2] for row in rows]))
    memory = peak(index, "reference"), peak(index, "ours")
    return {
        "case": case.name, "reference_s": slow, "ours_s": fast, "ratio": ratio, "forward_s": bare,
        "packing_s": packed - bare, "rest_s": fast - packed, "over_bare_forward": overhead, "floor_s": floor,
        "reference_mb": memory[0], "ours_mb": memory[1],
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    for index in range(len(CASES)):
        row = measure(index)
        print(json.dumps({k: v if isinstance(v, str) else round(v, 4) for k, v in row.items()}), flush=True)
