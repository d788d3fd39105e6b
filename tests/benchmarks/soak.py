"""Many inspections through `station watch` and `station serve`; in the middle another version, under load.

python -m tests.benchmarks soak LINE --key data/demo.key --parts 200000     # after a run of LINE
"""

import http.client
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock, Thread

import numpy as np

from export.runtime.install.install import install
from export.runtime.keys import load_trusted, public_path
from export.runtime.log.history import History
from tests.benchmarks.killed import feed, watch_command
from tests.benchmarks.stations import Usage, bundle_of, golden_pictures, new_store, percentiles, renewed

CLIENTS = 2
EDGE = 5000  # parts at the start and at the end whose times are compared


class Course:
    """What is seen of the process while it works: its size at tenths, when another version is due, longest pause."""

    def __init__(self, pid: int, parts: int, change: Thread) -> None:
        self.pid, self.parts, self.change = pid, parts, change
        self.milliseconds: list[float] = []
        self.bundles: list[str] = []
        self.pauses: list[float] = []
        self._last = time.perf_counter()
        self._lock = Lock()

    def seen(self, milliseconds: float, bundle: str) -> None:
        now = time.perf_counter()
        with self._lock:
            number = len(self.milliseconds)
            self.pauses.append(now - self._last)
            self._last = now
            self.milliseconds.append(milliseconds)
            self.bundles.append(bundle)
            if (number + 1) % (self.parts // 10) == 0:
                print(f"{number + 1:>8} parts: {Usage.of(self.pid)}", flush=True)
            if number + 1 == self.parts // 2:
                self.change.start()

    def report(self, store: Path) -> None:
        self.change.join()
        with History(store) as history:
            record = [row.entry.part for row in history.since()]
        new = {bundle: self.bundles.index(bundle) for bundle in dict.fromkeys(self.bundles)}
        print(f"first {EDGE}: {percentiles(self.milliseconds[:EDGE])}; last: {percentiles(self.milliseconds[-EDGE:])}")
        print(f"versions, each with the number of its first part: {new}")
        print(f"{len(self.milliseconds)} told, {len(record)} on record, {len(set(record))} parts")
        half, whole = self.parts // 2, self.pauses[100:]
        change = self.pauses[half : 2 + max(new.values())]
        print(
            f"pause between two answers: p99 {np.percentile(whole, 99) * 1000:.0f} ms, longest {max(whole) * 1000:.0f}"
        )
        print(f"from the call of install to the first part of the other version: longest {max(change) * 1000:.0f} ms")


def _watch(store: Path, root: Path, pictures: list[bytes], parts: int, change: Thread) -> None:
    camera, stop = root / "camera", Event()
    camera.mkdir()
    with (root / "errors").open("w") as errors:
        process = subprocess.Popen(watch_command(store, camera), stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    course = Course(process.pid, parts, change)
    feed(camera, pictures, stop, parts)
    for line in process.stdout:
        answer = json.loads(line)
        course.seen(answer["ms"], answer["bundle"])
        if len(course.milliseconds) == parts:
            break
    process.terminate()
    process.wait()
    process.stdout.close()
    course.report(store)


def _serve(store: Path, root: Path, pictures: list[bytes], parts: int, change: Thread) -> None:
    port = 18473
    command = [sys.executable, "-m", "export.runtime.cli", "serve", "--port", str(port), "--store", str(store)]
    with (root / "errors").open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
    course = Course(process.pid, parts, change)
    _wait(port)

    def client(own: int) -> int:
        connection, refused = http.client.HTTPConnection("127.0.0.1", port), 0
        for number in range(own, parts, CLIENTS):
            headers = {"Content-Type": "image/png", "Idempotency-Key": f"{number}"}
            begun = time.perf_counter()
            connection.request("POST", "/inspect", pictures[number % len(pictures)], headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            refused += response.status != 200
            course.seen((time.perf_counter() - begun) * 1000, answer["bundle"])
        connection.close()
        return refused

    with ThreadPoolExecutor(CLIENTS) as pool:
        refused = sum(pool.map(client, range(CLIENTS)))
    process.terminate()
    process.wait()
    course.report(store)
    print(f"answers other than 200: {refused}")


def _wait(port: int) -> None:
    for _ in range(100):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            connection.close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the service does not answer")


def main(line: str, runs: Path, key: Path, parts: int, ways: tuple[str, ...]) -> None:
    """Send `parts` pictures each way, to a store of its own."""
    bundle, trusted = bundle_of(line, runs), load_trusted([public_path(key)])
    for way in ways:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            store = new_store(root / "store", key)
            (store / "station.toml").write_text("[watch]\nsettle_ms = 0\n[log]\npictures_mb = 200\n")
            install(bundle, trusted, store, allow_older=True, say=lambda _: None)
            newer = renewed(bundle, key, root / "newer", 1)
            command = [sys.executable, "-m", "export.runtime.cli", "install", str(newer), "--store", str(store)]
            change = Thread(target=subprocess.run, args=(command,), kwargs={"check": True})
            print(f"{way}: {parts} parts, another version installed by `station install` at half of them")
            begun = time.perf_counter()
            (_watch if way == "watch" else _serve)(store, root, golden_pictures(bundle), parts, change)
            seconds = time.perf_counter() - begun
            size = sum(path.stat().st_size for path in (store / "log").rglob("*") if path.is_file()) / 1e6
            print(f"{seconds:.0f} s, {parts / seconds:.0f} a second; log and pictures {size:.0f} MB")
            events = [text for text in (root / "errors").read_text().splitlines() if text.strip()]
            print(f"events: {len(events)}; " + "; ".join(np.unique([text[:70] for text in events])[:8]), flush=True)
