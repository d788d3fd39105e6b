"""Kill a run with SIGKILL at random moments, resume it each time, and compare the model's hash.

python -m tests.benchmarks resume LINE --kills 10
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def _hashes(runs: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in runs.glob("*/export-*/model.onnx")}


def main(line: str, runs: Path, key: Path, kills: int = 10, least: float = 5.0, most: float = 40.0) -> None:
    """Run `line` once more under a fresh folder with the timings of `runs`, killed `kills` times."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "runs"
        shutil.copytree(runs / "devices", fresh / "devices")
        command = [sys.executable, "-m", "factory.cli", "run", line, "--runs", str(fresh), "--key", str(key)]
        rng, done = np.random.default_rng(0), 0
        while done < kills:
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
                moment = float(rng.uniform(least, most))
                time.sleep(moment)
                if process.poll() is not None:
                    print(f"the run was complete after {done} kills")
                    break
                os.killpg(process.pid, signal.SIGKILL)
                assert process.stderr is not None
                last = [text for text in process.stderr.read().splitlines() if text.strip()][-1:]
            done += 1
            print(f"kill {done} after {moment:.1f} s, in: {last[0][:90] if last else '(start)'}", flush=True)
        ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        found = _hashes(fresh)
        print(f"exit code {ended.returncode}; {done} kills; models {sorted(found)}")
        print(f"uninterrupted: {sorted(_hashes(runs))}; equal: {bool(found) and found <= _hashes(runs)}")
