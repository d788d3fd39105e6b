import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.runtime.cli import main
from export.runtime.manifest import bundle_id

PROJECT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own, whatever the tester's machine trusts."""
    store = tmp_path / "store"
    monkeypatch.setenv("STATION_STORE", str(store))
    return store


@pytest.fixture
def pictures(tmp_path: Path, tiny: SimpleNamespace) -> Path:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for name, grey in (("b.png", 220), ("a.PNG", 40), ("deep/c.png", 60)):
        (folder / name).write_bytes(tiny.picture(grey))
    (folder / "notes.txt").write_text("not a picture")
    return folder


Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def station(capsys: pytest.CaptureFixture[str]) -> Said:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_verify_says_who_signed_what_and_what_comes_next(station: Said, bundle: Path, trust: list[Path]) -> None:
    code, out, err = station("verify", bundle, "--trust", trust[0])
    name = bundle_id((bundle / "manifest.json").read_bytes())
    assert code == 0
    assert f"bundle {name} for the line cells-3 is whole" in out
    assert err == f"next: station inspect {bundle} PICTURES\n"


def test_verify_answers_in_json(station: Said, bundle: Path, trust: list[Path]) -> None:
    code, out, err = station("verify", bundle, "--trust", trust[0], "--json")
    answer = json.loads(out)
    assert (code, err, answer["ok"], answer["problems"]) == (0, "", True, [])
    assert answer["bundle"] == bundle_id((bundle / "manifest.json").read_bytes())
    assert answer["key_id"] == json.loads((bundle / "manifest.json").read_bytes())["signer"]["key_id"]


def test_verify_refuses_a_changed_bundle(station: Said, bundle: Path, trust: list[Path]) -> None:
    (bundle / "model.onnx").write_bytes(b"x")
    code, out, err = station("verify", bundle, "--trust", trust[0])
    assert (code, out) == (1, "")
    assert err.startswith("error: model.onnx was changed after signing")
    code, out, err = station("verify", bundle, "--trust", trust[0], "--json")
    answer = json.loads(out)
    assert (code, err, answer["ok"], answer["bundle"]) == (1, "", False, None)
    assert "model.onnx was changed" in answer["problems"][0]


def test_the_store_holds_the_trusted_keys(
    station: Said,
    bundle: Path,
    trust: list[Path],
    own_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, _, err = station("verify", bundle)
    assert code == 2
    assert str(own_store / "trusted") in err
    assert "--trust" in err
    (own_store / "trusted").mkdir(parents=True)
    shutil.copy(trust[0], own_store / "trusted")
    assert station("verify", bundle)[0] == 0
    assert station("verify", bundle, "--store", tmp_path / "elsewhere")[0] == 2
    assert station("verify", bundle, "--store", own_store)[0] == 0
    monkeypatch.delenv("STATION_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    shutil.copytree(own_store, tmp_path / "data" / "edge-model-station")
    assert station("verify", bundle)[0] == 0


def test_inspect_prints_a_line_a_picture(station: Said, bundle: Path, trust: list[Path], pictures: Path) -> None:
    code, out, err = station("inspect", bundle, pictures, pictures / "b.png", "--trust", trust[0])
    lines = [json.loads(line) for line in out.splitlines()]
    names = [str(Path(line["path"]).relative_to(pictures)) for line in lines]
    assert code == 0
    assert names == ["a.PNG", "b.png", "deep/c.png", "b.png"]
    assert [line["verdict"] for line in lines] == ["pass", "reject", "pass", "reject"]
    told = {"path", "verdict", "label", "scores", "threshold", "ms"}
    assert set(lines[0]) == told | {"score", "reason", "novelty", "brightness", "sharpness"}
    assert err.splitlines()[0] == "4 pictures: 2 pass, 2 reject"
    assert err.splitlines()[1].startswith("next: station inspect")


def test_a_picture_that_cannot_be_read_never_passes(
    station: Said, bundle: Path, trust: list[Path], pictures: Path
) -> None:
    (pictures / "aa.png").write_text("text in disguise")
    code, out, err = station("inspect", bundle, pictures, pictures / "missing.png", "--trust", trust[0])
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [line["verdict"] for line in lines] == ["pass", "error", "reject", "pass", "error"]
    assert "is not a picture" in lines[1]["error"]
    assert "label" not in lines[1]
    assert "2 error" in err


def test_inspect_refuses_a_folder_without_pictures(station: Said, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    code, out, err = station("inspect", bundle, tmp_path / "none")
    assert (code, out) == (2, "")
    assert "holds no pictures" in err


def test_a_path_the_system_refuses_is_told_without_a_traceback(station: Said, bundle: Path) -> None:
    code, _, err = station("inspect", bundle, "x" * 300)
    assert code == 2
    assert err.startswith("error: ")


def test_inspect_exits_with_3_where_the_machine_cannot_run_the_bundle(
    station: Said,
    make_bundle: Callable[..., Path],
    trust: list[Path],
    tiny: SimpleNamespace,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    asked = tiny.draft()
    device = type(asked.device)(name="orin", runtime="tensorrt", precision="fp16")
    folder = make_bundle(asked=tiny.draft(device=device))
    code, out, err = station("inspect", folder, pictures, "--trust", trust[0])
    assert (code, out) == (3, "")
    assert "pip install 'edge-model-factory[trt]'" in err


@pytest.mark.parametrize("arguments", [[], ["inspect"], ["install"], ["inspect", "b", "--fly", "p"], ["fly", "b"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: station" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["verify"], ["bench"], ["inspect", "p.png"]])
def test_without_a_bundle_one_must_be_installed(arguments: list[str], station: Said, trust: list[Path]) -> None:
    code, out, err = station(*arguments, "--trust", trust[0])
    assert (code, out) == (2, "")
    assert "no bundle is installed at this station" in err and "station install BUNDLE" in err


def test_pictures_may_stand_on_both_sides_of_an_option(
    station: Said, bundle: Path, trust: list[Path], pictures: Path
) -> None:
    code, out, _ = station("inspect", bundle, pictures / "b.png", "--trust", trust[0], pictures / "a.PNG")
    assert code == 0 and [Path(json.loads(line)["path"]).name for line in out.splitlines()] == ["b.png", "a.PNG"]
    code, _, err = station("inspect", bundle, "--trust", trust[0])
    assert code == 2 and "no picture is named" in err


def test_verify_loads_neither_a_runtime_nor_a_framework(bundle: Path, trust: list[Path], python: Any) -> None:
    code = (
        "import sys; from export.runtime.cli import main; code = main(sys.argv[1:]);"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'click', 'pydantic'} & set(sys.modules)), code)"
    )
    done = python(code, "verify", bundle, "--trust", trust[0])
    assert done.stdout.splitlines()[-1] == "[] 0", done


@pytest.fixture
def stalled(bundle: Path, trust: list[Path], pictures: Path) -> Any:
    """An inspection with more to say than a pipe holds, stopped where nobody reads on."""
    command = [sys.executable, "-m", "export.runtime.cli", "inspect", str(bundle), "--trust", str(trust[0])]
    many = [os.path.relpath(pictures / "b.png", PROJECT)] * 3000
    with subprocess.Popen(
        [*command, *many], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["verdict"] == "reject"
        yield process


def test_a_reader_that_goes_away_ends_it_quietly(stalled: Any) -> None:
    stalled.stdout.close()
    assert (stalled.stderr.read(), stalled.wait(60)) == ("", 141)


def test_ctrl_c_ends_it_in_one_line(stalled: Any) -> None:
    stalled.send_signal(signal.SIGINT)
    _, err = stalled.communicate(timeout=60)
    assert (err, stalled.returncode) == ("stopped\n", 130)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="asked of Linux")
def test_output_that_a_full_disk_does_not_take_is_told(bundle: Path, trust: list[Path]) -> None:
    command = [sys.executable, "-m", "export.runtime.cli", "verify", str(bundle), "--trust", str(trust[0])]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, cwd=PROJECT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 3
    assert last.startswith("error: nothing can be written there: expected a place that can be written, with space left")
    assert "found No space left on device. Free some space" in last and "Traceback" not in done.stderr
