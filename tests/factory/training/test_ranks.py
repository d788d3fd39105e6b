import subprocess
import sys
from pathlib import Path

import pytest
import torch

from export.runtime.errors import UsageError
from factory.training import ranks
from factory.workspace import read_json
from tests.factory.training import two_ranks

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The jobs done by this process, and by two that torchrun starts."""
    root = tmp_path_factory.mktemp("ranks")
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*program, "-m", "tests.factory.training.two_ranks", str(root / "two")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    two_ranks.run(root / "one")
    return root / "one", root / "two"


@pytest.mark.parametrize("name", two_ranks.JOBS)
def test_two_processes_leave_the_very_bytes_that_one_leaves(name: str, folders: tuple[Path, Path]) -> None:
    one, two = folders
    for ending in ("json", "safetensors", "checkpoint"):
        file = f"{name}.{ending}"
        assert (one / file).exists() == (two / file).exists() == (name != "diverging" or ending != "checkpoint")
        if (one / file).exists():
            assert (one / file).read_bytes() == (two / file).read_bytes()


def test_the_jobs_show_what_they_are_there_for(folders: tuple[Path, Path]) -> None:
    one, _ = folders
    found = {name: read_json(one / f"{name}.json") for name in two_ranks.JOBS}
    assert 2 < len(found["four parts, averaged"]) < 12  # stopped early
    assert {row["parts"] for row in found["short of memory"]} == {4}
    assert "epoch 1, step" in found["diverging"]
    assert found["resumed"] == found["two parts"]
    assert (one / "resumed.safetensors").read_bytes() == (one / "two parts.safetensors").read_bytes()
    assert found["taught"] != found["two parts"][:2]
    assert (one / "two parts.safetensors").read_bytes() != (one / "taught.safetensors").read_bytes()


def test_a_batch_that_cannot_be_shared_out_is_refused(folders: tuple[Path, Path]) -> None:
    _, two = folders
    text = (two / "refused.txt").read_text(encoding="utf-8")
    assert "a multiple of 2, the number of processes, found 1" in text and "set training.parts" in text


def test_the_others_end_in_silence_when_the_leader_breaks_off(folders: tuple[Path, Path]) -> None:
    _, two = folders
    assert all((two / name).exists() for name in ("broken off", "left leader", "left other"))


def test_no_thread_of_the_group_is_left_that_could_abort_the_process_at_its_end(folders: tuple[Path, Path]) -> None:
    _, two = folders
    assert "gloo" not in (two / "left leader").read_text() + (two / "left other").read_text()


def test_alone_a_process_leads_and_does_everything() -> None:
    with ranks.joined() as leader:
        assert leader
    assert (ranks.size(), ranks.leads(), ranks.own(3)) == (1, True, range(3))
    assert ranks.told(lambda: 5) == 5
    assert [ranks.anywhere(happened) for happened in (True, False)] == [True, False]


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "one", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="at most 1 processes on this machine, found 2"), ranks.joined():
        pass
