"""`station watch` under load, killed at random moments: no verdict told is lost, none is given twice.

python -m tests.benchmarks killed LINE --key data/demo.key --kills 50     # after a run of LINE
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from threading import Event, Thread

import numpy as np

from export.runtime.install.install import install
from export.runtime.keys import load_trusted, public_path
from export.runtime.log.history import History
from tests.benchmarks.stations import bundle_of, golden_pictures, new_store

WAITING = 40  # files that wait at most, as a camera would not run ahead for ever


def feed(camera: Path, pictures: list[bytes], stop: Event, number: int | None = None) -> Callable[[], int]:
    """Fill a folder as a camera's driver does, from a thread; returns how many files were put there so far."""
    put = [0]

    def work() -> None:
        numbers = count() if number is None else iter(range(number))
        for index in numbers:
            while sum(1 for _ in camera.iterdir()) >= WAITING and not stop.is_set():
                time.sleep(0.001)
            if stop.is_set():
                return
            beside = camera / f".{index}.png"
            beside.write_bytes(pictures[index % len(pictures)])
            beside.rename(camera / f"part-{index:07d}.png")
            put[0] = index + 1

    Thread(target=work, daemon=True).start()
    return lambda: put[0]


def watch_command(store: Path, camera: Path) -> list[str]:
    """The command that watches a folder and removes what it has judged."""
    return [sys.executable, "-m", "export.runtime.cli", "watch", str(camera), "--remove", "--store", str(store)]


def main(line: str, runs: Path, key: Path, kills: int) -> None:
    """Kill, start again, and in the end compare what was told with what is on record."""
    bundle, rng = bundle_of(line, runs), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store, camera, out = new_store(root / "store", key), root / "camera", root / "told"
        (store / "station.toml").write_text("[watch]\nsettle_ms = 0\n")
        camera.mkdir()
        install(bundle, load_trusted([public_path(key)]), store, allow_older=True, say=print)
        stop = Event()
        arrived = feed(camera, golden_pictures(bundle), stop)
        for kill in range(kills):
            with out.open("a") as stream, (root / "errors").open("a") as errors:
                process = subprocess.Popen(watch_command(store, camera), stdout=stream, stderr=errors)
            time.sleep(float(rng.uniform(0.3, 2.0)))
            process.kill()
            process.wait()
            if kill % 10 == 9:
                print(f"{kill + 1} kills, {arrived()} parts arrived", flush=True)
        stop.set()
        with out.open("a") as stream, (root / "errors").open("a") as errors:
            process = subprocess.Popen(watch_command(store, camera), stdout=stream, stderr=errors)
        while any(camera.glob("part-*")):
            time.sleep(0.1)
        process.terminate()
        process.wait()
        told = [json.loads(text) for text in out.read_text().splitlines() if text.startswith("{") and text[-1] == "}"]
        with History(store) as history:
            record = [(row.entry.part, row.entry.verdict) for row in history.since()]
        verdicts, times = dict(record), Counter(answer["part"] for answer in told)
        print(f"{kills} kills; {arrived()} parts arrived, {len(record)} verdicts on record, {len(verdicts)} parts")
        print(f"told and not on record: {sum(answer['part'] not in verdicts for answer in told)}")
        print(f"told otherwise than on record: {sum(verdicts[a['part']] != a['verdict'] for a in told)}")
        print(f"parts with two verdicts on record: {len(record) - len(verdicts)}")
        print(f"parts told again after a kill, alike: {sum(number > 1 for number in times.values())}")
        print(f"parts never told: {len(verdicts.keys() - times.keys())}")
        print(f"errors: {Counter(line.split(':')[0] for line in (root / 'errors').read_text().splitlines())}")
