"""The engines themselves: real processes and a real cluster, whose members are killed."""

import gc
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export.runtime.errors import EnvironmentLacks, GateError
from factory.engine import Engine, engine
from factory.engine.processes import visible_gpu

PROJECT = Path(__file__).parents[2]

Result = tuple[int, bytes]  # threads, and so many bytes that Ray leaves them on the machine they were made on

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")
leaves_processes = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # for a moment


@dataclass(frozen=True)
class Work:
    """A seeded computation on images, as scoring is; the last bits of its sums depend on the number of threads."""

    images: Tensor

    def __call__(self, seed: int) -> Result:
        weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(seed))
        rows = self.images
        for _ in range(10):
            rows = torch.tanh(rows @ weight)
        return torch.get_num_threads(), rows.numpy().tobytes()


@dataclass(frozen=True)
class Watched(Work):
    """Leaves the place that began an item, and a file when it is done; goes on when two places take part."""

    folder: Path

    def __call__(self, seed: int) -> Result:
        ray = sys.modules.get("ray")
        place = ray.get_runtime_context().get_node_id() if ray and ray.is_initialized() else str(os.getpid())
        with (self.folder / f"{seed}.began").open("a") as log:
            log.write(f"{place}\n")
        wait_for(lambda: len(places(self.folder)) == 2)
        time.sleep(0.3)
        result = super().__call__(seed)
        (self.folder / f"{seed}.done").touch()
        return result


@dataclass(frozen=True)
class Killed(Work):
    """The process that computes item 2 is killed the first time, or always."""

    folder: Path
    always: bool = False

    def __call__(self, seed: int) -> Result:
        if seed == 2 and (self.always or not (self.folder / "killed").exists()):
            (self.folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(seed)


@dataclass(frozen=True)
class Large:
    """A result that no pipe holds at once."""

    folder: Path

    def __call__(self, item: int) -> bytes:
        (self.folder / f"{item}.began").write_text(str(os.getpid()))
        return bytes([item]) * 10_000_000


@dataclass(frozen=True)
class Refuses:
    """Raises what a user is to read, or what a library raises."""

    def __call__(self, item: int) -> int:
        if item == 1:
            raise GateError("the network is too large", expected="1 MB", found="2 MB")
        if item == 2:
            raise KeyError("no such layer")
        return item


@dataclass(frozen=True)
class Where:
    """The GPU that a worker may use, and whether CUDA began before; both workers are to take part."""

    folder: Path

    def __call__(self, item: int) -> tuple[str, bool]:
        (self.folder / f"{os.getpid()}").touch()
        wait_for(lambda: len(list(self.folder.iterdir())) == 2)
        return os.environ["CUDA_VISIBLE_DEVICES"], torch.cuda.is_initialized()


@pytest.fixture
def work() -> Work:
    return Work(torch.randn(128, 256, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def ray_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is left in the user's folders. Paths of sockets must be short, and a process keeps its first token."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        yield
        gc.collect()  # so that what Ray left is met here


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """So that one thread is the engine's doing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def places(folder: Path) -> set[str]:
    """All that began an item of `Watched`."""
    return {place for path in folder.glob("*.began") for place in path.read_text().split()}


def expected_of(work: Work, number: int) -> list[Result]:
    torch.set_num_threads(1)
    results = [Work(work.images)(seed) for seed in range(number)]
    torch.set_num_threads(2)
    return results


def check_engine(members: Engine, work: Work) -> None:
    """Two maps with one task, one with another, the order, the threads, and the errors of a task."""
    expected = expected_of(work, 12)
    for number in (12, 0, 5):
        assert list(members.map(work, range(number))) == expected[:number]
    assert {threads for threads, _ in expected} == {1}
    results = members.map(Refuses(), [0, 1, 2])
    assert next(results) == 0
    with pytest.raises(GateError) as gate:
        next(results)
    assert (gate.value.found, str(gate.value)) == ("2 MB", "the network is too large: expected 1 MB, found 2 MB")
    with pytest.raises(KeyError, match="no such layer"):
        list(members.map(Refuses(), [2]))
    assert next(members.map(work, range(12))) == expected[0]  # the rest is not asked for


def test_serial_computes_what_is_asked_for_and_keeps_the_callers_threads(work: Work) -> None:
    with engine("serial", 8, None) as members:
        check_engine(members, work)
        assert [torch.get_num_threads() for _ in members.map(work, range(2))] == [2, 2]


def test_one_process_is_this_one() -> None:
    with engine("processes", 1, None) as members:
        assert list(members.map(int, ["1"])) == [1]
        assert type(members).__name__ == "Serial"


def test_processes_compute_what_serial_does(work: Work) -> None:
    with engine("processes", 2, None) as members:
        check_engine(members, work)


def test_a_killed_process_changes_nothing(work: Work, tmp_path: Path) -> None:
    with engine("processes", 2, None) as members:
        found = list(members.map(Killed(work.images, tmp_path), range(12)))
    assert (tmp_path / "killed").exists()
    assert found == expected_of(work, 12)


def test_a_process_killed_while_it_answers_changes_nothing(tmp_path: Path) -> None:
    with engine("processes", 2, None) as members:
        results = members.map(Large(tmp_path), range(4))
        found = [next(results)]
        wait_for(lambda: len(places(tmp_path)) == 2)
        time.sleep(0.5)  # nobody reads: the other worker is in the middle of its answer
        for place in places(tmp_path):
            os.kill(int(place), signal.SIGKILL)
        found += results
    assert [len(set(result)) for result in found] == [1] * 4
    assert [(result[0], len(result)) for result in found] == [(item, 10_000_000) for item in range(4)]


def test_work_that_kills_every_process_is_given_up(work: Work, tmp_path: Path) -> None:
    with engine("processes", 2, None) as members:
        results = members.map(Killed(work.images, tmp_path, always=True), range(4))
        assert [next(results), next(results)] == expected_of(work, 2)
        with pytest.raises(
            EnvironmentLacks, match=r"killed again and again.*4 that died at the same work.*exit code -9.*fewer workers"
        ):
            next(results)


def test_processes_end_with_their_parent_however_it_ends(tmp_path: Path) -> None:
    code = f"""
if __name__ == "__main__":
    from pathlib import Path
    import torch
    from factory.engine import engine
    from tests.factory.test_engine import Watched
    with engine("processes", 2, None) as members:
        list(members.map(Watched(torch.ones(128, 256), Path({str(tmp_path)!r})), range(10_000)))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT)
    try:
        wait_for(lambda: len(places(tmp_path)) == 2)
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in places(tmp_path)))


@pytest.mark.parametrize(
    ("worker", "gpus", "visible", "seen"),
    [
        (0, 0, None, None),
        (5, 1, None, None),
        (0, 1, "3", None),
        (0, 2, None, "0"),
        (3, 2, None, "1"),
        (4, 3, "5,2, 7", "2"),
        (5, 3, "5,2, 7", "7"),
        (1, 2, "GPU-1f,GPU-a0,GPU-33", "GPU-a0"),
    ],
)
def test_workers_share_out_the_gpus(worker: int, gpus: int, visible: str | None, seen: str | None) -> None:
    assert visible_gpu(worker, gpus, visible) == seen


def test_a_worker_sees_its_gpu_before_cuda_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,8")
    with engine("processes", 2, None) as members:
        assert sorted(members.map(Where(tmp_path), range(2))) == [("7", False), ("8", False)]


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(EnvironmentLacks, match=r"pip install 'edge-model-factory\[ray\]'") as caught,
        engine("ray", 2, None),
    ):
        pass
    assert caught.value.exit_code == 3


def wait_for(condition: Callable[[], bool], seconds: float = 45) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@contextmanager
def two_nodes() -> Iterator[Any]:
    """A real cluster of two nodes of one CPU, both of this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


@needs_ray
@leaves_processes
@pytest.mark.usefixtures("ray_home")
def test_a_local_cluster_computes_what_serial_does(work: Work) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with engine("ray", 2, None) as members:
        check_engine(members, work)
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert not list(Path(os.environ["RAY_TMPDIR"]).rglob("usage_stats.json"))
    assert signal.getsignal(signal.SIGTERM) is handler


@needs_ray
@leaves_processes
@pytest.mark.usefixtures("ray_home")
def test_a_killed_machine_of_the_cluster_changes_nothing(
    work: Work, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with two_nodes() as cluster:
        (second,) = cluster.worker_nodes

        def started() -> list[Path]:
            """Items that the second node is at."""
            begun = [path for path in tmp_path.glob("*.began") if second.node_id in path.read_text()]
            return [path for path in begun if not path.with_suffix(".done").exists()]

        with engine("ray", 2, cluster.address) as members:
            found, lost = [], []
            for result in members.map(Watched(work.images, tmp_path), range(12)):
                found.append(result)
                if not lost and (lost := started()):
                    cluster.remove_node(second, allow_graceful=False)
        assert capfd.readouterr().out == ""
    assert found == expected_of(work, 12)
    assert lost
    assert [len(set(path.read_text().split())) for path in lost] == [2]


@needs_ray
@leaves_processes
@pytest.mark.usefixtures("ray_home")
def test_a_cluster_that_is_not_there_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentLacks, match="Could not find any running Ray") as caught, engine("ray", 2, "auto"):
        pass
    assert caught.value.exit_code == 3
    assert "ray start --head" in str(caught.value)
    monkeypatch.setattr("factory.engine.cluster.REACHED_WITHIN", 6.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        before = time.monotonic()
        with pytest.raises(EnvironmentLacks, match="no answer within 6 s"), engine("ray", 2, f"127.0.0.1:{port}"):
            pass
        assert time.monotonic() - before < 15
