"""What Swapout costs: a step of training with masks of every granularity, against the same network without.

python -m tests.benchmarks swapout-cost

Forward, backward and SGD step of a network of the space, 32 x 32, batch 64, channels-last, in float32 and
under bfloat16 autocast; CPU time on one thread, or CUDA events where there is a GPU. All sides take turns in every
round of one run; a ratio is the median over the rounds of the ratio to the plain step of that round.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Final

import torch
from torch import Tensor, nn

from factory.spaces.network import build
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan
from factory.swapout.layer import sample_with
from factory.swapout.schedule import Noise, Schedule

GENOME: Final = "stem_w16_s1-basic_w16_d2_k3_e1_s1-basic_w32_d2_k3_e1_s2-basic_w64_d2_k3_e1_s2"
BATCH, SIDE, CLASSES, ROUNDS = 64, 32, 10, 15
HALF: Final = Schedule.constant(0.5)
SIDES: Final[dict[str, Noise]] = {
    "plain": Noise.plain(),
    "plain again": Noise.plain(),
    "swapout, a unit": Noise.swapout(HALF),
    "swapout, a unit, linear 1 to 0.5": Noise.swapout(Schedule.linear(1.0, 0.5)),
    "swapout, a channel": Noise.swapout(HALF, per="channel"),
    "swapout, a sample": Noise.swapout(HALF, per="sample"),
    "swapout, a layer": Noise.swapout(HALF, per="layer"),
    "dropout, a unit": Noise.dropout(HALF),
    "skip-forward, a unit": Noise.skip_forward(HALF),
}


def step_of(noise: Noise, device: str, half: bool) -> Callable[[], None]:
    """One step of training, from the picture on the device to the changed weights."""
    torch.manual_seed(0)
    network = build(plan(parse(GENOME), Input(SIDE, SIDE, 3), CLASSES), noise).to(device).train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sample_with(network, torch.Generator(device).manual_seed(0))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    x = torch.randn(BATCH, 3, SIDE, SIDE, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (BATCH,), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            logits: Tensor = network(x)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def seconds(step: Callable[[], None], device: str) -> float:
    if device == "cpu":
        before = time.process_time()
        step()
        return time.process_time() - before
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def main() -> None:
    """Print milliseconds and the ratio to the plain step for every granularity and both dtypes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    print(f"{GENOME}, batch {BATCH}, {SIDE} x {SIDE}, {device}")
    print("| noise | float32 ms | ratio | bfloat16 ms | ratio |\n|---|---|---|---|---|")
    cells: dict[str, list[str]] = {name: [] for name in SIDES}
    for half in (False, True):
        steps = {name: step_of(noise, device, half) for name, noise in SIDES.items()}
        for step in steps.values():
            for _ in range(3):
                step()
        rows = [{name: seconds(step, device) for name, step in steps.items()} for _ in range(ROUNDS)]
        for name in SIDES:
            ratio = median(row[name] / row["plain"] for row in rows)
            cells[name] += [f"{1e3 * median(row[name] for row in rows):.1f}", f"{ratio:.3f}"]
    for name, found in cells.items():
        print(f"| {name} | {' | '.join(found)} |")
