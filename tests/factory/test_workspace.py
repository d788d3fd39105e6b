import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import factory
from export.runtime.errors import UsageError
from factory.data import dataset
from factory.workspace import Stage, Workspace, code_digest, digest, read_json, sha256, write_atomic, write_json

PROJECT = Path(factory.__file__).parents[1]


def python(code: str, *arguments: object, path: Path = PROJECT) -> subprocess.Popen[str]:
    """Start the interpreter of this test, with the packages at `path` before the installed ones."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=path,  # which is searched before anything else
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return out.strip()


class Bench:
    """A workspace that remembers what it said and how often the work was done."""

    def __init__(self, runs: Path) -> None:
        self.said: list[str] = []
        self.calls = 0
        self.workspace = Workspace(runs, "line", self.said.append)

    def stage(self, inputs: object = 1, text: str = "result") -> Stage:
        def work(folder: Path) -> None:
            self.calls += 1
            (folder / "deep").mkdir(exist_ok=True)
            (folder / "deep" / "out.txt").write_text(text)

        return self.workspace.stage("toy", {"inputs": inputs}, work, sha256)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "runs")


def test_a_complete_stage_is_reused_and_said_to_be(bench: Bench, tmp_path: Path) -> None:
    first = bench.stage()
    again = Bench(tmp_path / "runs")
    second = again.stage()
    assert (bench.calls, again.calls) == (1, 0)
    assert not first.reused and second.reused
    assert (first.path, first.digest, first.result, first.seconds) == (
        second.path,
        second.digest,
        second.result,
        second.seconds,
    )
    assert again.said == [f"toy: complete, reused ({first.path.name})"]
    assert (second.path / "deep" / "out.txt").read_text() == "result"
    assert not list((tmp_path / "runs" / "line" / "partial").iterdir())


def test_the_record_names_inputs_and_the_hash_of_every_file(bench: Bench) -> None:
    record = read_json(bench.stage().path / "stage.json")
    assert record["inputs"] == {"inputs": 1}
    assert record["files"] == {"deep/out.txt": sha256(b"result")}


def test_a_changed_input_runs_anew_and_keeps_the_old_result(bench: Bench) -> None:
    one, two = bench.stage(1), bench.stage(2)
    assert bench.calls == 2
    assert one.path != two.path and one.path.exists()
    assert one.result == two.result  # the files are the same, whatever the inputs were
    assert bench.stage(2, "never written").result == two.result
    assert [stage.digest for stage in bench.workspace.stages] == [one.digest, two.digest]  # each once


def test_equal_inputs_in_another_order_are_the_same_stage(bench: Bench) -> None:
    one = bench.stage({"a": 1, "b": 2})
    assert bench.stage({"b": 2, "a": 1}).path == one.path


def test_a_stage_that_is_wanted_anew_runs_again(bench: Bench) -> None:
    bench.stage(text="old")
    bench.workspace.anew = {"toy"}
    assert (bench.stage(text="new").path / "deep" / "out.txt").read_text() == "new"
    assert bench.calls == 2


def test_a_stage_with_other_code_is_another_stage(bench: Bench) -> None:
    def work(folder: Path) -> None:
        (folder / "a").touch()

    one = bench.workspace.stage("toy", {}, work, sha256)
    two = bench.workspace.stage("toy", {}, work, dataset.prepare)
    assert one.path != two.path


def edit(folder: Path) -> None:
    (folder / "deep" / "out.txt").write_text("resulT")


def add(folder: Path) -> None:
    (folder / "deep" / "more.txt").touch()


def remove(folder: Path) -> None:
    (folder / "deep" / "out.txt").unlink()


def forget(folder: Path) -> None:
    (folder / "stage.json").unlink()


def cut(folder: Path) -> None:
    (folder / "stage.json").write_text('{"digest": ')


def empty(folder: Path) -> None:
    write_json(folder / "stage.json", {})


@pytest.mark.parametrize("change", [edit, add, remove, forget, cut, empty])
def test_a_complete_folder_that_was_changed_is_refused(change: Callable[[Path], None], bench: Bench) -> None:
    folder = bench.stage().path
    change(folder)
    with pytest.raises(UsageError, match=r"toy-\w{12} was changed after it was complete.*delete that folder"):
        bench.stage()


def test_a_stage_that_fails_is_not_complete_and_goes_on_from_what_it_left(bench: Bench) -> None:
    def fails(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        bench.workspace.stage("toy", {"inputs": 1}, fails, sha256)
    stage = bench.stage()
    assert (stage.path / "half.txt").read_text() == "half"
    assert [said.split()[1] for said in bench.said] == ["running", "resuming"]


KILLED = """
import os, signal, sys
from pathlib import Path
from factory.workspace import Workspace, sha256

def work(folder):
    (folder / "checkpoint").write_text("three epochs")
    (folder / ".model.onnx.7.partial").write_text("cut sh")
    os.kill(os.getpid(), signal.SIGKILL)

Workspace(Path(sys.argv[1]), "line", print).stage("toy", {"inputs": 1}, work, sha256)
"""


def test_a_killed_stage_resumes_in_its_folder_without_half_written_files(bench: Bench, tmp_path: Path) -> None:
    killed = python(KILLED, tmp_path / "runs")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    found = []

    def work(folder: Path) -> None:
        found.append((folder / "checkpoint").read_text())
        (folder / "checkpoint").unlink()
        (folder / "model").write_text("whole")

    stage = bench.workspace.stage("toy", {"inputs": 1}, work, sha256)
    assert found == ["three epochs"]
    assert bench.said == [f"toy: resuming ({stage.path.name})"]
    assert sorted(path.name for path in stage.path.iterdir()) == ["model", "stage.json"]


HOLD = """
import sys
from pathlib import Path
from factory.workspace import Workspace

with Workspace(Path(sys.argv[1]), "line", print).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_on_the_same_line_is_refused_and_another_line_is_not(bench: Bench, tmp_path: Path) -> None:
    holder = python(HOLD, tmp_path / "runs")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(UsageError, match=r"another run of line 'line' is at work in .*runs.*--runs"),
        bench.workspace.locked(),
    ):
        pass
    with Workspace(tmp_path / "runs", "other", print).locked():
        pass
    answer(holder)
    with bench.workspace.locked():
        pass


def test_the_lock_of_a_killed_process_is_free(bench: Bench, tmp_path: Path) -> None:
    holder = python(HOLD, tmp_path / "runs")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate(timeout=60)
    with bench.workspace.locked():
        pass


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the workspace beside toy modules: top -> middle -> bottom, top -> plain, and one that stands apart."""
    packages = {
        "factory/__init__.py": "",
        "factory/top.py": "from factory.sub.middle import a\n\ndef f():\n    import factory.plain\n",
        "factory/plain.py": "",
        "factory/apart.py": "",
        "factory/sub/__init__.py": "",
        "factory/sub/middle.py": "from factory.sub import bottom\na = 1\n",
        "factory/sub/bottom.py": "",
        "export/__init__.py": "",
        "export/runtime/__init__.py": "",
        **{
            f"export/runtime/{name}.py": (PROJECT / "export" / "runtime" / f"{name}.py").read_text()
            for name in ("errors", "files")
        },
        "factory/workspace.py": (PROJECT / "factory" / "workspace.py").read_text(),
    }
    for name, text in packages.items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_text(text)
    return tmp_path / "copy"


def test_the_code_of_a_stage_is_its_module_and_all_it_imports(copied: Path) -> None:
    code = """
import sys
from pathlib import Path
from factory.workspace import code_digest

folder = Path(sys.argv[1])
before = code_digest("factory.top")
for name in ("top", "plain", "sub/middle", "sub/bottom", "apart"):
    file = folder / "factory" / f"{name}.py"
    text = file.read_text()
    file.write_text(text + "b = 2\\n")
    code_digest.cache_clear()
    print(name, code_digest("factory.top") != before)
    file.write_text(text)
code_digest.cache_clear()
print("undone", code_digest("factory.top") != before)
"""
    assert answer(python(code, copied, path=copied)).splitlines() == [
        "top True",
        "plain True",
        "sub/middle True",
        "sub/bottom True",
        "apart False",
        "undone False",
    ]


def test_the_code_of_training_and_of_data_differ() -> None:
    assert code_digest("factory.training.full") != code_digest("factory.data.dataset")


def test_digests_tell_values_apart_but_not_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert len({digest(v) for v in ([1, 2], [2, 1], "1", 1, {"a": 1}, None)}) == 6
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


FULL = """
import resource, sys
from pathlib import Path
from factory.workspace import write_atomic

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path(sys.argv[1]), b"n" * 5000)
except OSError as error:
    print("OSError", error.errno)
"""


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")
    assert answer(python(FULL, path)).startswith("OSError")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_without_numbers_for_json_is_not_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, None]})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("inf")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, None]}
