"""Commands done by two processes that torchrun starts, as by one."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from factory.workspace import RECORD, read_json
from tests.conftest import Finished
from tests.tiny import factory, make_line

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def by_two(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Call the command line under torchrun."""
    program = [sys.executable, "-m", *TORCHRUN, "-m", "factory.cli", *map(str, arguments)]
    alone = {"OMP_NUM_THREADS": "1"}
    return subprocess.run(program, capture_output=True, text=True, timeout=300, check=False, env=os.environ | alone)


@pytest.fixture
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def profile(finished: Finished, tmp_path: Path) -> Path:
    """The finished line, whose batches now go through in two parts: what it did until the search stays good."""
    path = make_line(tmp_path, finished.images, workers=2, epochs=2)
    path.write_text(path.read_text().replace("batch = 8", "batch = 8\nparts = 2"))
    return path


def left(runs: Path, stage: str) -> dict[str, object]:
    """All that the stages of one name left, by path; of their records all but the seconds."""
    files = [path for folder in runs.glob(f"tiny/{stage}-*") for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(runs).as_posix(): (
            {key: value for key, value in read_json(path).items() if key != "seconds"}
            if path.name == RECORD
            else path.read_bytes()
        )
        for path in files
    }


@pytest.mark.usefixtures("_one_thread")
def test_two_processes_leave_what_one_leaves_and_the_leader_alone_speaks(
    profile: Path, finished: Finished, tmp_path: Path
) -> None:
    one, two = (shutil.copytree(finished.runs, tmp_path / name) for name in ("one", "two"))
    trained, collapsed = (by_two(command, profile, "--runs", two, "--json") for command in ("train", "collapse"))
    for done in (trained, collapsed):
        assert done.returncode == 0, done.stderr
    assert trained.stderr.count("train: running") == 2  # plain and with noise
    assert trained.stderr.count("next: ") == 1
    assert collapsed.stderr.count("collapse: running") == 2 and "train: running" not in collapsed.stderr
    alone = [
        factory("train", profile, "--runs", one, "--engine", "serial"),
        factory("collapse", profile, "--runs", one),
    ]
    assert [result.exit_code for result in alone] == [0, 0], alone
    cures = json.loads(collapsed.stdout)["finish"]["swapout"]["cures"]
    assert [cure["name"] for cure in cures] == ["re-estimated", "fine-tuned", "distilled"]
    for stage in ("train", "collapse"):
        assert len(list(two.glob(f"tiny/{stage}-*"))) == 2 + len(list(finished.runs.glob(f"tiny/{stage}-*")))
        assert left(two, stage) == left(one, stage)
    assert read_json(two / "tiny" / "trials.json") == read_json(one / "tiny" / "trials.json")


def test_batches_that_cannot_be_shared_out_are_refused_in_one_line_before_any_work(
    profile: Path, tmp_path: Path
) -> None:
    profile.write_text(profile.read_text().replace("parts = 2", "parts = 3"))
    done = by_two("train", profile, "--runs", tmp_path / "runs")
    assert done.returncode == 1  # torchrun's own, which names those that failed
    assert re.findall(r"rank +: (\d)|exitcode +: (\d+)", done.stderr) == [("0", ""), ("", "2")]
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "a multiple of 2, the number of processes, found 3" in said
    assert done.stdout == ""
    assert not (tmp_path / "runs").exists()
