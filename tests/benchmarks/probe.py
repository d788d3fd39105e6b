"""Is the graph a candidate is timed on as fast as the one that is delivered? And what does it save?

python -m tests.benchmarks probe
"""

import time
from functools import partial

import numpy as np

from export.build.onnx import export
from export.runtime.timing import measure
from factory.cost.book import open_runner
from factory.cost.count import count
from factory.cost.probe import probe
from factory.profiles import load_device
from factory.spaces.network import build
from factory.spaces.plan import Input
from factory.spaces.residual import plan, random_genome
from factory.swapout.collapse import collapse

NETWORKS, MOST_MACS = 8, 30_000_000


def main() -> None:
    """Print p50 of both graphs, interleaved, for random networks at 64 x 64, and the seconds to make each."""
    device, picture, rng = load_device("cpu-x86"), Input(64, 64, 1), np.random.default_rng(0)
    plans = []
    while len(plans) < NETWORKS:
        candidate = plan(random_genome(rng, picture), picture, 2)
        if count(candidate).macs < MOST_MACS:
            plans.append(candidate)
    ratios, seconds = [], []
    print("| delivered p50 ms | probe p50 ms | ratio | export s | probe s |\n|---|---|---|---|---|")
    for network in plans:
        start = time.perf_counter()
        delivered = export(collapse(build(network)).float(), [0.5], [0.2], (64, 64, 1))
        middle = time.perf_counter()
        timed_graph = probe(network)
        end = time.perf_counter()
        runners = [partial(open_runner, model, network, device) for model in (delivered, timed_graph)]
        a, b = measure(runners, np.zeros((1, 64, 64, 1), np.uint8), rounds=5, seconds=0.2)
        ratios.append(b.p50 / a.p50)
        seconds.append((middle - start) / (end - middle))
        print(
            f"| {a.p50:.3f} | {b.p50:.3f} | {ratios[-1]:.3f} | {middle - start:.2f} | {end - middle:.4f} |", flush=True
        )
    print(f"median ratio {np.median(ratios):.3f}; the probe is made {np.median(seconds):.0f} times faster")
