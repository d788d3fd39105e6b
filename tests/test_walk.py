"""The way of a new station, as the README tells it: from a stick to the first verdicts, in an environment of its own.

`python -m pytest tests/test_walk.py -s` prints how long it took and how large it became.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from export.runtime.install.install import install
from export.runtime.keys import load_trusted
from tests.conftest import Finished

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
UNREACHED = ("NewConnectionError", "name resolution", "Network is unreachable", "ConnectTimeoutError")


def commands(mark: str) -> list[list[str]]:
    (block,) = re.findall(rf"<!-- test: {mark} -->\n```console\n(.*?)```", README, re.DOTALL)
    return [shlex.split(line, comments=True) for line in block.splitlines() if line.strip()]


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=400
    )  # fmt: skip
    if done.returncode and any(word in done.stderr for word in UNREACHED):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def watched(
    command: list[str], folder: Path, environment: dict[str, str], picture: Path, name: str
) -> dict[str, object]:
    """The first line of a command that stays, once a picture has arrived, and stopped then."""
    (folder / "camera").mkdir(exist_ok=True)
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        if not list((folder / "camera").iterdir()):
            shutil.copy(picture, folder / "camera" / f"{name}.png")
        answer: dict[str, object] = json.loads(process.stdout.readline())
        process.terminate()
        assert process.wait(30) == 0
    return answer


def test_from_a_stick_to_the_first_verdict_without_torch(finished: Finished, tmp_path: Path) -> None:
    real = {"pip": f"{sys.executable} -m pip", "python": sys.executable, ".[cpu]": f"{ROOT}[cpu]"}
    real |= {"BUNDLE": str(finished.bundle)}
    shutil.copy(f"{finished.key}.pub", tmp_path / "signing.key.pub")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "STATION_STORE")}
    environment |= {"PIP_CONSTRAINT": str(ROOT / ".constraints.txt"), "XDG_DATA_HOME": str(tmp_path / "data")}
    shutil.copytree(finished.images / "good", tmp_path / "pictures")
    picture, seconds = next((tmp_path / "pictures").iterdir()), {}
    *walk, watch = commands("walk")
    assert len(walk) == 8
    for words in walk:
        begun = time.perf_counter()
        out = run(shlex.split(" ".join(shlex.quote(word) if word not in real else real[word] for word in words)),
                  tmp_path, environment)  # fmt: skip
        seconds[" ".join(words[:3])] = time.perf_counter() - begun
    verdicts = [json.loads(line)["verdict"] for line in out.splitlines()]
    assert len(verdicts) == 40 and set(verdicts) <= {"pass", "reject", "review"}
    answer = watched(watch, tmp_path, environment, picture, "part")
    assert answer["verdict"] in ("pass", "reject", "review") and answer["fault"] is None
    assert not list((tmp_path / "camera").iterdir())
    has_torch = "import importlib.util; print(importlib.util.find_spec('torch') is not None)"
    assert run(["station-env/bin/python", "-c", has_torch], tmp_path, environment) == "False\n"
    files = [path for path in (tmp_path / "station-env").rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files) / 1e6
    assert size < 500
    print(f"\n{size:.0f} MB in station-env; " + ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items()))


def test_watching_a_folder(finished: Finished, tmp_path: Path) -> None:
    environment = os.environ | {"STATION_STORE": str(tmp_path / "store"), "PYTHONPATH": str(ROOT)}
    station = [sys.executable, "-m", "export.runtime.cli"]
    run([*station, "trust", f"{finished.key}.pub"], tmp_path, environment)
    run([*station, "install", str(finished.bundle)], tmp_path, environment)
    picture = next((finished.images / "good").iterdir())
    for number, (name, *arguments) in enumerate(commands("watch")):
        assert name == "station"
        answer = watched([*station, *arguments], tmp_path, environment, picture, "part")
        # The first leaves its file; to the second, which removes it, it is on record.
        assert (answer["part"], answer["fault"], answer["again"]) == ("part", None, number == 1)
        assert bool(list((tmp_path / "camera").iterdir())) == ("--remove" not in arguments)


def test_python_at_the_station(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snippets = [text for text in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "export.runtime" in text]
    assert len(snippets) == 2
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished.bundle, "bundle")
    shutil.copy(f"{finished.key}.pub", "signing.key.pub")
    for number, picture in enumerate(sorted((finished.images / "good").iterdir())[:3], start=1):
        shutil.copy(picture, f"part-{number:04}.png")
    (tmp_path / "store" / "trusted").mkdir(parents=True)
    shutil.copy("signing.key.pub", "store/trusted")
    trusted = load_trusted([Path("signing.key.pub")])
    install(Path("bundle"), trusted, Path("store"), allow_older=False, say=lambda _: None, test=lambda *_: {})
    for snippet in snippets:
        exec(snippet, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.split()[0] in ("pass", "reject", "review") for line in lines)
