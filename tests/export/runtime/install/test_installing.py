"""The commands install, rollback and status, with the real self-test, and the others on what is installed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime import bench
from export.runtime.cli import main
from export.runtime.install.install import install
from export.runtime.install.state import Version, read_state
from export.runtime.log.history import History
from export.runtime.timing import Effort
from tests.power import in_this_process

PROJECT = Path(__file__).parents[4]
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path, trust: list[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    store = tmp_path / "store"
    (store / "trusted").mkdir(parents=True)
    shutil.copy(trust[0], store / "trusted")
    monkeypatch.setenv("STATION_STORE", str(store))
    return store


@pytest.fixture
def station(capsys: pytest.CaptureFixture[str]) -> Said:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def put(store: Path, keys: Mapping[str, Ed25519PublicKey]) -> Callable[[Path], Version]:
    """Install with a self-test of milliseconds."""

    def run(bundle: Path) -> Version:
        return install(bundle, keys, store, allow_older=False, say=lambda text: None, test=in_this_process)

    return run


def test_from_a_stick_to_the_first_verdict_and_back(
    station: Said,
    store: Path,
    put: Callable[[Path], Version],
    bundles: tuple[Path, Path, Path],
    tiny: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = tmp_path / "part.png"
    picture.write_bytes(tiny.picture(220))
    assert station("status") == (0, f"nothing is installed in {store}\n", "next: station install BUNDLE\n")
    code, _, err = station("inspect", picture)
    assert code == 2 and "no bundle is installed at this station" in err
    code, out, err = station("install", bundles[0])
    assert code == 0 and "runs here since" in out and "next: station inspect PICTURES" in err
    code, out, err = station("install", bundles[0])
    assert code == 0 and "runs already" in err
    put(bundles[1])
    a, b = (json.loads(station("verify", bundle, "--json")[1])["bundle"] for bundle in bundles[:2])
    shutil.rmtree(bundles[1])
    code, out, err = station("inspect", picture)
    assert code == 0 and json.loads(out)["verdict"] == "reject" and "next: station inspect MORE_PICTURES" in err
    assert f"bundle {b}" in station("verify")[1]
    monkeypatch.setattr(bench, "EFFORT", Effort(rounds=1, seconds=0.0, runs=3, warm_up_s=0.0))
    assert json.loads(station("bench", "--rhythm-ms", "0", "--json")[1])["bundle"] == b
    document = json.loads(station("status", "--json")[1])
    assert (document["current"]["bundle"], document["previous"]["bundle"]) == (b, a)
    assert document["previous"]["self_test"]["golden_pictures"] == 3
    code, out, _ = station("rollback")
    assert code == 0 and f"bundle {a}" in out
    code, out, err = station("status")  # of what the real self-test measured
    assert code == 0 and f"runs: bundle {a}" in out and "self-test: 3 golden pictures" in out
    assert err == "next: station inspect PICTURES\n"


def test_what_is_inspected_by_what_is_installed_is_on_record(
    station: Said,
    store: Path,
    put: Callable[[Path], Version],
    bundles: tuple[Path, Path, Path],
    tiny: SimpleNamespace,
    tmp_path: Path,
) -> None:
    put(bundles[0])
    for name, data in (("dark", tiny.picture(40)), ("bright", tiny.picture(220)), ("broken", b"no picture")):
        (tmp_path / f"{name}.png").write_bytes(data)
    code, out, err = station("inspect", *(tmp_path / f"{name}.png" for name in ("dark", "bright", "broken")))
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, [line["verdict"] for line in lines]) == (1, ["pass", "reject", "review"])
    assert "not a picture" in lines[2]["fault"] and "1 of the pictures could not be inspected" in err
    with History(store) as history:
        assert [(row.entry.part, row.entry.verdict) for row in history.since()] == [
            ("dark", "pass"), ("bright", "reject"), ("broken", "review"),
        ]  # fmt: skip
    shutil.copytree(bundles[0], tmp_path / "looked-at")
    assert station("inspect", tmp_path / "looked-at", tmp_path / "dark.png")[0] == 0
    with History(store) as history:
        assert len(history.last(9)) == 3


def test_an_older_bundle_and_one_over_its_budget_are_refused(
    station: Said,
    store: Path,
    put: Callable[[Path], Version],
    bundles: tuple[Path, Path, Path],
    made: Callable[..., Path],
) -> None:
    put(bundles[1])
    code, _, err = station("install", bundles[0])
    assert code == 1 and "--allow-older" in err
    code, _, err = station("install", made("slow", 4, budget={"latency_ms": {"limit": 1e-6}}))
    assert code == 1 and "failed its self-test and was not installed" in err and "at most 1e-06 ms" in err
    state = read_state(store)
    assert state.previous is None and len(list((store / "bundles").iterdir())) == 1


def test_status_says_when_what_runs_can_no_longer_be_loaded(
    station: Said, store: Path, put: Callable[[Path], Version], bundles: tuple[Path, Path, Path]
) -> None:
    put(bundles[0])
    for key in (store / "trusted").iterdir():
        key.unlink()
    code, out, err = station("status")
    assert code == 1 and "NO LONGER TRUSTED" in out and "next: station install BUNDLE" in err
    (store / "state.json").write_text("{")
    code, out, err = station("status")
    assert (code, out) == (1, "") and err.startswith("error: the station's record") and "Traceback" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="by signals of POSIX")
def test_a_stop_during_the_real_self_test_leaves_what_ran(
    station: Said, store: Path, put: Callable[[Path], Version], bundles: tuple[Path, Path, Path]
) -> None:
    put(bundles[0])
    before = (store / "state.json").read_bytes()
    command = [sys.executable, "-m", "export.runtime.cli", "install", str(bundles[1])]
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        with subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("self-test:")
            time.sleep(0.3)
            process.send_signal(number)
            said = process.stderr.read()
            assert process.wait() == code, said
            assert "Traceback" not in said
        assert (store / "state.json").read_bytes() == before
        assert len(list((store / "bundles").iterdir())) == (1 if number == signal.SIGINT else 2)
    assert station("inspect", bundles[0] / "golden")[0] == 0
    put(bundles[1])
    assert len(list((store / "bundles").iterdir())) == 2
