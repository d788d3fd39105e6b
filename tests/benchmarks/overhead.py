"""What a verdict costs beside its network: inspection over a bare session run, threads, and the start of a process.

python -m tests.benchmarks overhead LINE --key data/demo.key     # after a run of LINE
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.runtime.image import decode
from export.runtime.keys import load_trusted, public_path
from export.runtime.station import Station
from tests.benchmarks.stations import bundle_of, golden_pictures

ROUNDS = 60
RUNS = 200
STARTS = 9


def _session(station: Station, model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = station.manifest.threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _microseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(RUNS):
        run()
    return (time.perf_counter() - start) / RUNS * 1e6


def _a_second(run: Callable[[], object], threads: int, seconds: float = 3.0) -> float:
    def turn(end: float) -> int:
        number = 0
        while time.perf_counter() < end:
            run()
            number += 1
        return number

    with ThreadPoolExecutor(threads) as pool:
        end = time.perf_counter() + seconds
        return sum(pool.map(turn, [end] * threads)) / seconds


def _start(command: list[str]) -> float:
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return time.perf_counter() - start


def main(line: str, runs: Path, key: Path) -> None:
    """Measure the newest bundle of `line`."""
    bundle, public = bundle_of(line, runs), public_path(key)
    station = Station.load(bundle, load_trusted([public]))
    model = (bundle / station.manifest.model.path).read_bytes()
    session, name = _session(station, model), station.manifest.input.name
    pictures = golden_pictures(bundle)
    frame: NDArray[np.uint8] = station.fitted(pictures[0])
    ways: dict[str, Callable[[], object]] = {
        "bare session run": lambda: session.run(None, {name: frame[np.newaxis]}),
        "inspect, a frame": lambda: station.inspect(frame),
        "inspect, a file's bytes": lambda: station.inspect(pictures[0]),
    }
    turns = {way: [_microseconds(run) for _ in range(2)] for way, run in ways.items()}  # warm
    turns = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            turns[way].append(_microseconds(run))
    bare = np.array(turns["bare session run"])
    size = station.manifest.input
    print(f"{line}: {size.height} x {size.width} x {size.channels}, {station.variant.model.precision}")
    for way, own in turns.items():
        print(f"{way:<24} {median(own):8.1f} us, over bare {median(np.array(own) / bare):.3f}")
    stored = decode(pictures[0]).shape
    print(
        f"(the file: {stored[1]} x {stored[0]}, {len(pictures[0])} bytes: decoding and reducing it is the difference)"
    )
    for way in ("bare session run", "inspect, a frame"):
        one, two = (_a_second(ways[way], threads) for threads in (1, 2))
        print(f"{way:<24} {one:8.0f} a second with 1 thread, {two:8.0f} with 2: {two / one:.2f}")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "part.png"
        picture.write_bytes(pictures[0])
        commands = {
            "import numpy, PIL, cryptography, onnxruntime": [
                "-c",
                "import numpy, PIL.Image, onnxruntime; from cryptography.hazmat.primitives.asymmetric import ed25519;"
                "print(1)",
            ],
            "station inspect, to the first verdict": [
                "-m", "export.runtime.cli", "inspect", str(bundle), str(picture), "--trust", str(public),
            ],
        }  # fmt: skip
        for what, arguments in commands.items():
            times = sorted(_start([sys.executable, *arguments]) for _ in range(STARTS))
            print(f"{what:<46} {times[0]:.2f} to {times[-1]:.2f} s, median {median(times):.2f}")
