"""`station serve` under load from 1 to 64 connections: rate, milliseconds and errors, beside the bare calls.

python -m tests.benchmarks serve [BUNDLE PUBLIC_KEY PICTURE]; without them the tiny bundle of the tests.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep

import click

from export.build.pack import pack
from export.runtime.install.install import install
from export.runtime.keys import new_key, public_path
from export.runtime.live.inspector import Inspector
from export.runtime.station import Station
from export.runtime.trust import load_trusted
from tests.export.runtime import conftest as tiny

CONNECTIONS = (1, 2, 4, 8, 16, 32, 64)
SECONDS = 5
CALLS = 2000

SCRIPT = """
local file = assert(io.open(os.getenv("PICTURE"), "rb"))
wrk.method, wrk.body = "POST", file:read("*a")
wrk.headers["Content-Type"] = "application/octet-stream"
function done(summary, latency)
  local errors = summary.errors
  io.stderr:write(string.format('{"rate": %f, "p50": %f, "p99": %f, "max": %f, "errors": %d}',
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    latency.max / 1000, errors.connect + errors.read + errors.write + errors.timeout + errors.status))
end
"""


def _tiny(work: Path) -> tuple[Path, Path, Path]:
    model, asked, key = tiny.network(), tiny.draft(), work / "key"
    new_key(key)
    (work / "picture.png").write_bytes(tiny.picture(40))
    bundle = pack(work / "bundle", draft=asked, files=tiny.files_of(model, asked), key=key, signer_name="bench")
    return bundle, public_path(key), work / "picture.png"


@contextmanager
def _served(store: Path) -> Iterator[tuple[str, int]]:
    """The address of a service in a process of its own, and the process."""
    command = [sys.executable, "-m", "export.runtime.cli", "serve", "--store", str(store), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline() + process.stderr.readline()
        found = re.search(r"answers at (http://\S+?);", said)
        if found is None:
            raise click.ClickException(said + process.stderr.read())
        try:
            yield found[1], process.pid
        finally:
            process.terminate()


def _load(url: str, picture: Path, script: Path, connections: int) -> dict[str, float]:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--timeout", "20s", "-s", str(script), url]
    done = subprocess.run(
        command, env=os.environ | {"PICTURE": str(picture)}, capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stderr)
    return found


def _alone(call: Callable[[], object], threads: int) -> tuple[float, float, float]:
    """Calls a second, and the median and 99th percentile of their milliseconds, without HTTP."""

    def one(_: int) -> float:
        begun = perf_counter()
        call()
        return (perf_counter() - begun) * 1000

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(100)))
        begun = perf_counter()
        taken = list(pool.map(one, range(CALLS)))
        rate = CALLS / (perf_counter() - begun)
    return rate, statistics.median(taken), statistics.quantiles(taken, n=100)[98]


def _process(pid: int) -> str:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    memory, threads = int(status["VmRSS"].split()[0]) / 1000, int(status["Threads"])
    return f"{memory:.1f} MB, {descriptors} descriptors, {threads} threads"


def main(given: tuple[Path, ...]) -> None:
    """`station serve` under load; takes BUNDLE PUBLIC_KEY PICTURE, else makes a tiny bundle."""
    if shutil.which("wrk") is None:
        raise click.ClickException("wrk is missing: apt-get install wrk, or https://github.com/wg/wrk")
    if len(given) not in (0, 3):
        raise click.UsageError("name a bundle, its public key and a picture, or nothing")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bundle, key, picture = given or _tiny(work)
        store, data, script = work / "store", picture.read_bytes(), work / "post.lua"
        trusted = load_trusted([key])
        install(bundle, trusted, store, allow_older=False, say=print)
        (store / "trusted").mkdir()
        shutil.copy(key, store / "trusted" / "bench.pub")
        script.write_text(SCRIPT)
        print(f"\npicture of {len(data)} bytes, {SECONDS} s each, log on {store}\n")
        print("| | answers a second | p50 ms | p99 ms | errors |\n|---|---|---|---|---|")
        station = Station.load(bundle, trusted)
        for threads in (1, 2):
            rate, p50, p99 = _alone(lambda: station.inspect(data), threads)
            print(f"| Station.inspect, {threads} threads | {rate:.0f} | {p50:.2f} | {p99:.2f} | 0 |", flush=True)
        with Inspector.open(store, lambda: trusted, lambda _: None) as inspector:
            for threads in (1, 2):
                rate, p50, p99 = _alone(lambda: inspector.inspect(data, "part"), threads)
                print(f"| Inspector.inspect, {threads} threads | {rate:.0f} | {p50:.2f} | {p99:.2f} | 0 |", flush=True)
        with _served(store) as (url, pid):
            before = _process(pid)
            for number in CONNECTIONS:
                found = _load(f"{url}/inspect", picture, script, number)
                cells = f"{found['rate']:.0f} | {found['p50']:.2f} | {found['p99']:.2f} | {found['errors']:.0f}"
                print(f"| serve, {number} connections | {cells} |", flush=True)
            sleep(3)  # what the last load left in the queue is answered to nobody
            print(f"\nthe service before: {before}; after: {_process(pid)}")
