import subprocess
import sys
from pathlib import Path

import pytest

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


def test_a_batch_that_cannot_be_shared_out_is_refused_and_all_processes_end(folders: tuple[Path, Path]) -> None:
    _, two = folders
    text = (two / "refused.txt").read_text(encoding="utf-8")
    assert "a multiple of 2, the number of processes, found 1" in text and "set training.parts" in text
    assert (two / "left leader").exists() and (two / "left other").exists()


def test_alone_a_process_leads_and_does_everything() -> None:
    with ranks.joined() as leader:
        assert leader
    assert (ranks.size(), ranks.leads(), ranks.own(3)) == (1, True, range(3))
    assert ranks.told(lambda: 5) == 5
    assert [ranks.anywhere(happened) for happened in (True, False)] == [True, False]
