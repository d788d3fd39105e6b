"""Do independent measurements agree, with each other and with a plain timing loop?

python -m tests.benchmarks repeatability [--processes 10]
"""

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.runtime.timing import measure, random_frames
from factory.cost.book import open_runner
from factory.cost.count import count
from factory.cost.probe import probe
from factory.profiles import load_device
from factory.spaces.plan import Input, Plan
from factory.spaces.residual import plan, random_genome

PICTURE = Input(64, 64, 1)
MACS = (3_000_000, 10_000_000, 30_000_000)  # the nets are those of 300 random ones that come nearest
WARM_UP_S, RUNS = 0.6, 1000


def _nets() -> list[Plan]:
    rng = np.random.default_rng(0)
    drawn = [plan(random_genome(rng, PICTURE), PICTURE, 2) for _ in range(300)]
    return [min(drawn, key=lambda net: abs(count(net).macs - wanted)) for wanted in MACS]


def _plain(model: bytes, frame: NDArray[np.uint8]) -> float:
    """Median ms of a bare session on a fixed input, as onnxruntime_perf_test times it: nothing of this project."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: frame}
    end = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < end:
        session.run(None, feed)
    samples = []
    for _ in range(RUNS):
        start = time.perf_counter()
        session.run(None, feed)
        samples.append(time.perf_counter() - start)
    return 1e3 * float(np.median(samples))


def _process(paths: list[Path]) -> list[dict[str, float]]:
    """Figures of each net by one `factory measure`, a process of its own."""
    models = [part for path in paths for part in ("--model", str(path))]
    command = [sys.executable, "-m", "factory.cli", "measure", "cpu-x86", *models, "--rhythm-ms", "0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [row for row in json.loads(done.stdout)["rows"] if row["way"] == "back to back"]


def _spread(name: str, values: NDArray[np.float64]) -> str:
    cv = values.std(ddof=1) / values.mean()
    return f"| {name} | {np.median(values):.4f} | {cv:.2%} | {values.max() / values.min():.3f} |"


def main(processes: int = 10) -> None:
    """Print the spread of p50 and of its ratios between three nets, and our p50 over that of a plain loop.

    Behind every process each net is timed by both loops in this one, the order of the two changing.
    """
    nets, device = _nets(), load_device("cpu-x86")
    models, frame = [probe(net) for net in nets], random_frames((64, 64, 1))
    measured, noisy, agreement = [], 0, []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"net{index}.onnx" for index in range(len(nets))]
        for path, model in zip(paths, models, strict=True):
            path.write_bytes(model)
        for turn in range(processes):
            rows = _process(paths)
            measured.append([row["p50_ms"] for row in rows])
            noisy += sum(bool(row["noisy"]) for row in rows)
            both = []
            for net, model in zip(nets, models, strict=True):
                ways = {
                    "plain": partial(_plain, model, frame),
                    "ours": lambda net=net, model=model: (
                        measure([partial(open_runner, model, net, device)], frame, rounds=1, seconds=WARM_UP_S)[0].p50
                    ),
                }
                found = {way: ways[way]() for way in (list(ways) if turn % 2 else list(ways)[::-1])}
                both.append(found["ours"] / found["plain"])
            agreement.append(both)
            print(f"process {turn + 1} of {processes}: p50 ms {measured[-1]}", file=sys.stderr, flush=True)
    p50, ratio = np.array(measured), np.array(agreement)
    print(f"{processes} processes; {noisy} of {p50.size} figures unsteady")
    print("| | median | coefficient of variation | max / min |\n|---|---|---|---|")
    for index, wanted in enumerate(MACS):
        print(_spread(f"net of {wanted / 1e6:.0f} M MACs, p50 ms", p50[:, index]))
    for one, other in ((1, 0), (2, 0), (2, 1)):
        print(_spread(f"p50 ratio {MACS[one] / 1e6:.0f} M / {MACS[other] / 1e6:.0f} M", p50[:, one] / p50[:, other]))
    for index, wanted in enumerate(MACS):
        print(_spread(f"ours / plain loop, {wanted / 1e6:.0f} M", ratio[:, index]))
