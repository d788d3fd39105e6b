"""Does the noise of the training cost the station anything? The collapsed network beside the plain one.

python -m tests.benchmarks collapse-latency
"""

from functools import partial

import numpy as np

from export.build.onnx import export
from export.runtime.timing import measure
from factory.cost.book import open_runner
from factory.cost.count import count
from factory.profiles import SwapoutSettings, load_device
from factory.spaces.network import build
from factory.spaces.plan import Input
from factory.spaces.residual import plan, random_genome
from factory.swapout.collapse import collapse

NETWORKS, MOST_MACS, ROUNDS = 6, 30_000_000, 9


def main() -> None:
    """Print p50 of both ONNX files for random networks at 64 x 64, one frame, interleaved, and the ratio by round."""
    device, picture, rng = load_device("cpu-x86"), Input(64, 64, 1), np.random.default_rng(0)
    frame, ratios = np.zeros((1, 64, 64, 1), np.uint8), []
    print("| plain p50 ms | collapsed p50 ms | ratio, median of rounds | lowest | highest |\n|---|---|---|---|---|")
    while len(ratios) < NETWORKS:
        network = plan(random_genome(rng, picture), picture, 2)
        if count(network).macs > MOST_MACS or not network.residual_blocks:
            continue
        files = [
            export(collapse(build(network, noise)).float(), [0.5], [0.2], (64, 64, 1))
            for noise in (None, SwapoutSettings().noise)
        ]
        runners = [partial(open_runner, file, network, device) for file in files]
        rounds = np.array([[m.p50 for m in measure(runners, frame, rounds=1, seconds=0.15)] for _ in range(ROUNDS)])
        by_round = rounds[:, 1] / rounds[:, 0]
        ratios.append(float(np.median(by_round)))
        plain, collapsed = np.median(rounds, axis=0)
        print(f"| {plain:.3f} | {collapsed:.3f} | {ratios[-1]:.3f} | {by_round.min():.3f} | {by_round.max():.3f} |")
    print(f"median ratio {np.median(ratios):.3f}")
