"""Memory of a process that runs a network, measured in one of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from export.runtime.contract import Contract
from export.runtime.errors import EnvironmentLacks
from export.runtime.ort_runner import OnnxRunner

_STATUS: Final = Path("/proc/self/status")


def memory_mb(model: bytes, **asked: Any) -> float | None:
    """Return the peak resident memory in 10^6 bytes of a process that opens the model and scores one frame.

    Interpreter and runtime are counted: it is what a station needs. ``asked`` are the keywords of ``OnnxRunner`` and of
    its ``Contract``. None where the system does not tell (it is read from Linux's /proc).

    Raises EnvironmentLacks, in the process's own words, where it cannot run the model.
    """
    command = [sys.executable, "-m", "export.runtime.memory", json.dumps(asked)]
    done = subprocess.run(command, input=model, capture_output=True, check=False)
    if done.returncode:
        found = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise EnvironmentLacks("the memory of a model could not be measured", found=found, fix="Run it by itself")
    peak: float | None = json.loads(done.stdout)
    return peak


def peak_mb() -> float | None:
    """Return the peak resident memory of this process in 10^6 bytes; None where the system does not tell."""
    # Not getrusage: its figure of a process that was started by a larger one is at least that one's.
    if not _STATUS.exists():
        return None
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024 / 1e6


def _main(asked: dict[str, Any], model: bytes) -> None:
    runs_in, shape = {name: asked.pop(name) for name in ("runtime", "threads")}, tuple(asked.pop("frame_shape"))
    contract = Contract(frame_shape=shape, **asked)
    OnnxRunner(model, contract, **runs_in).infer(np.zeros((1, *shape), np.uint8))
    print(json.dumps(peak_mb()))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]), sys.stdin.buffer.read())
