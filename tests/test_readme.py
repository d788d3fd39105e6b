"""Every command of the README runs as it stands, and every command of the tool stands in the README."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click import Group
from torch import Tensor, nn

from export.runtime import bench
from export.runtime import measuring as station_measuring
from export.runtime.cli import main as station
from export.runtime.install.install import install
from export.runtime.keys import load_private, new_key
from export.runtime.log.log import Entry, Log
from export.runtime.manifest import bundle_id
from export.runtime.strictjson import canonical_bytes
from export.runtime.timing import Effort
from export.runtime.trust import load_trusted, sign_bundle
from factory import measuring
from factory.cli import main
from factory.cost import book
from factory.spaces.catalogue import SPACES
from tests.conftest import Finished
from tests.mutants import write_bundle
from tests.tiny import factory, make_images, make_line

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(mark: str) -> list[list[str]]:
    """The commands of the blocks that follow a mark."""
    blocks = re.findall(rf"<!-- test: {mark} -->\n```console\n(.*?)```", README, re.DOTALL)
    return [[line.split("#")[0].strip() for line in block.splitlines() if line.strip()] for block in blocks]


def _given(command: str) -> list[str]:
    """Give a command of `factory` as a user would, and return its arguments."""
    name, *arguments = shlex.split(command)
    assert name == "factory"
    result = factory(*arguments)
    assert result.exit_code == 0, f"{command}\n{result.output}"
    return arguments


def test_every_console_block_is_run_by_a_test() -> None:
    marks = (
        "walk",
        "watch",
        "line",
        "scores",
        "compare",
        "station",
        "install",
        "keys",
        "serve",
        "records",
        "engine",
        "measure",
        "kinds",
    )
    assert README.count("```console") == sum(len(blocks(mark)) for mark in marks) + 1  # of make


def test_make_targets_of_the_readme_exist() -> None:
    for target in re.findall(r"\bmake (\w+)", README):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_commands_of_a_new_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    make_images(tmp_path / "pictures", side=32)
    commands = [command for block in blocks("line") for command in block]
    assert commands
    for command in commands:
        arguments = _given(command)
        if arguments[0] == "init":  # what the user is told to do next: read it, and change it to taste
            profile = tmp_path / "profiles" / "lines" / "my-line.toml"
            text = profile.read_text().replace("candidates = 600", "candidates = 24\npopulation = 12\nworkers = 1")
            text = re.sub(r"\nepochs = \d+", "\nepochs = 10", re.sub(r"short_epochs = \d+", "short_epochs = 1", text))
            text = text.replace("batch = 32", "batch = 8").replace("shortlist = 4", "shortlist = 1")
            profile.write_text(text.replace("escape_max = 0.05", "escape_max = 0.5"))  # eight defects show no 5 %


def test_commands_about_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    archs = {SPACES["nasbench201"].sample(rng) for _ in range(16)}
    rows = [f"{arch},{60 + arch.count('conv') + rng.random():.2f}" for arch in sorted(archs)]
    (tmp_path / "table.csv").write_text("\n".join(["arch,accuracy", *rows]) + "\n")
    commands = [command for block in blocks("scores") for command in block]
    assert commands
    for command in commands:
        _given(command)


def test_commands_about_two_bundles(finished: Finished) -> None:
    commands = [command for block in blocks("compare") for command in block]
    assert commands
    real = {
        "my-line": str(finished.profile),
        "OLD-BUNDLE": str(finished.bundle),
        "NEW-BUNDLE": str(finished.bundle),
        "signing.key.pub": f"{finished.key}.pub",
    }
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "factory"
        given = [real.get(argument, argument) for argument in arguments]
        result = factory(*given, "--runs", finished.runs)
        assert result.exit_code == 0, result.output


def test_commands_at_the_station(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [command for block in blocks("station") for command in block]
    assert commands
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "station"
        real = {
            "BUNDLE": str(finished.bundle),
            "pictures": str(finished.images),
            "signing.key.pub": f"{finished.key}.pub",
        }
        assert station([real.get(argument, argument) for argument in arguments]) == 0, capsys.readouterr()


def test_commands_about_what_is_on_record(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STATION_STORE", str(tmp_path / "store"))
    profile = make_line(tmp_path, make_images(tmp_path / "pictures", 4))
    name = bundle_id((finished.bundle / "manifest.json").read_bytes())
    shutil.copytree(finished.bundle, tmp_path / "store" / "bundles" / name)
    make_images(tmp_path / "parts", 20, side=32)
    with Log(tmp_path / "store", keep_passes=0.1, pictures_mb=10) as log:
        for number, picture in enumerate(sorted((tmp_path / "parts").rglob("*.png"))):
            part = f"part-{number:04}"
            judged = Entry(
                part=part, source=part, time=f"2026-07-01T12:00:{number:02}.000Z", bundle=name, verdict="reject",
                label="scratch", score=0.75, threshold=0.5, novelty=1.0, brightness=150.0, sharpness=25.0, ms=0.4,
                sha256=None, kept=None, reason=None, fault=None,
            )  # fmt: skip
            log.record(judged, picture.read_bytes())
    commands = [command for block in blocks("records") for command in block]
    assert len(commands) == 6
    for command in commands:
        program, *arguments = shlex.split(command)
        if program == "station":
            assert station(arguments) == 0, capsys.readouterr()
        else:
            _given(shlex.join([program, *(str(profile) if word == "my-line" else word for word in arguments)]))
    assert (tmp_path / "july.csv").read_text().count("\n") == 41
    assert len(list((tmp_path / "pictures").glob("from-the-station/*/good/*.png"))) == 1


def test_commands_of_the_service(finished: Finished, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl is installed")
    store, trusted = tmp_path / "store", load_trusted([Path(f"{finished.key}.pub")])
    install(finished.bundle, trusted, store, allow_older=False, say=lambda _: None)
    (store / "trusted").mkdir()
    shutil.copy(f"{finished.key}.pub", store / "trusted")
    shutil.copy(next(finished.images.rglob("*.png")), tmp_path / "part.png")
    ((serve, *asked),) = blocks("serve")
    assert len(asked) == 3
    command = [
        sys.executable,
        "-m",
        "export.runtime.cli",
        *shlex.split(serve)[1:],
        "--store",
        str(store),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        at = re.search(r"http://127.0.0.1:\d+", said)
        assert at, said + process.stderr.read()
        answers = []
        for line in asked:
            assert "http://127.0.0.1:8765/" in line
            call = ["curl", "--silent", "--fail", *shlex.split(line.replace("http://127.0.0.1:8765", at[0]))[1:]]
            done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
            answers.append(json.loads(done.stdout))
        process.terminate()
        assert process.wait(30) == 143
    raw, form, health = answers
    assert raw["part"] == form["part"] == "A-1042"
    assert raw["verdict"] == form["verdict"] and raw["fault"] is None
    assert health == {"healthy": True, "problems": []}


def test_commands_about_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "signing.key"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTORY_KEY", str(key))
    monkeypatch.setenv("STATION_STORE", str(tmp_path / "store"))
    identity = new_key(key)
    (commands,) = blocks("keys")
    for command in commands:
        name, *arguments = shlex.split(command)
        if "BUNDLE" in arguments:
            write_bundle(tmp_path / "BUNDLE", load_private(key))
        given = [identity if argument == "KEY_ID" else argument for argument in arguments]
        if name == "station":
            assert station(given) == 0, capsys.readouterr()
        else:
            _given(shlex.join([name, *given]))
    told = capsys.readouterr().out
    assert (
        f"{identity}  revoked on" in told and "laptop stolen" in told and "line cells-3: no bundle made before" in told
    )


def test_commands_that_install_and_go_back(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    monkeypatch.setenv("STATION_STORE", str(store))
    (store / "trusted").mkdir(parents=True)
    shutil.copy(f"{finished.key}.pub", store / "trusted")
    older = repacked(finished.bundle, tmp_path / "older", finished.key)
    assert station(["install", str(older)]) == 0, capsys.readouterr()  # what ran before
    commands = [command for block in blocks("install") for command in block]
    assert [shlex.split(command)[1] for command in commands] == ["install", "inspect", "status", "rollback"]
    real = {"BUNDLE": str(finished.bundle), "pictures": str(finished.images)}
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "station"
        assert station([real.get(argument, argument) for argument in arguments]) == 0, capsys.readouterr()


def repacked(bundle: Path, folder: Path, key: Path) -> Path:
    """The same bundle, made an age ago."""
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_bytes()) | {"created": "2001-01-01T00:00:00Z"}
    (folder / "manifest.json").write_bytes(canonical_bytes(manifest))
    sign_bundle(folder, load_private(key))
    return folder


def test_commands_about_the_stations_own_engine(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They need a GPU: here they end where it is missed, and say so."""
    commands = [command for block in blocks("engine") for command in block]
    assert commands
    real = {"BUNDLE": str(finished.bundle), "pictures": str(finished.images), "signing.key.pub": f"{finished.key}.pub"}
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "station"
        given = [real.get(argument, argument) for argument in arguments]
        code = station([*given, "--store", str(tmp_path)])
        said = capsys.readouterr().err
        assert code == 0 or (code == 3 and ("no NVIDIA GPU" in said or "edge-model-factory[" in said)), said


def test_commands_that_measure(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = Effort(rounds=2, seconds=0.0, runs=3, warm_up_s=0.0)
    for module, name in ((bench, "EFFORT"), (station_measuring, "CARRIED"), (measuring, "EFFORT")):
        monkeypatch.setattr(module, name, quick)
    monkeypatch.setattr(book, "SECONDS", 0.002)
    monkeypatch.chdir(tmp_path)
    for variable, value in (
        ("STATION_STORE", tmp_path / "store"), ("FACTORY_KEY", finished.key), ("FACTORY_RUNS", tmp_path / "runs"),
    ):  # fmt: skip
        monkeypatch.setenv(variable, str(value))
    device = tmp_path / "profiles" / "devices" / "hall-7.toml"
    device.parent.mkdir(parents=True)
    settings = "".join(f'{key} = "{value}"\n' for key, value in HALL_7.items())
    device.write_text(settings)
    real = {
        "BUNDLE": str(finished.bundle),
        "model.onnx": str(finished.bundle / "model.onnx"),
        "my-line": str(finished.profile),
        "signing.key.pub": f"{finished.key}.pub",
        "station.key.pub": str(tmp_path / "store" / "station.key.pub"),
    }
    commands = [command for block in blocks("measure") for command in block]
    assert len(commands) == 6
    for command in commands:
        name, *arguments = shlex.split(command)
        given = [real.get(argument, argument) for argument in arguments]
        if name == "station":
            assert station(given) == 0, capsys.readouterr()
        else:
            _given(shlex.join([name, *given]))
    assert (tmp_path / "profiles" / "devices" / "hall-7.measured.json").is_file()


HALL_7 = {"description": "a PC", "runtime": "onnxruntime-cpu", "measured": "station"}


def test_the_retrofit_of_a_network_of_ones_own() -> None:
    (snippet,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "retrofit" in block]
    torch.manual_seed(0)
    network, x = Residual().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    names: dict[str, object] = {"network": network}
    exec(snippet, names)
    noisy, plain = names["noisy"], names["plain"]
    assert isinstance(noisy, nn.Module) and isinstance(plain, nn.Module)
    torch.testing.assert_close(plain(x), noisy.double().eval()(x), rtol=1e-10, atol=1e-10)


class Residual(nn.Module):
    """A small residual network, such as a reader has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 2)
        self.convs = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for conv in self.convs:
            x = (x + conv(x)).relu()
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def _commands(group: Group, prefix: str) -> list[tuple[str, str | None]]:
    found = []
    for name, command in group.commands.items():
        if isinstance(command, Group):
            found += _commands(command, f"{prefix} {name}")
        else:
            found.append((f"{prefix} {name}", command.help))
    return found


def test_every_command_has_help_and_stands_in_the_readme() -> None:
    for name, text in _commands(main, "factory"):
        assert text, name
        assert name in README, name


def test_every_command_of_the_station_has_help_and_stands_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        station(["--help"])
    commands = re.findall(r"^    ([a-z-]+) +\w", capsys.readouterr().out, re.MULTILINE)
    assert {"verify", "install", "rollback", "status", "inspect", "watch", "serve", "trust"} <= set(commands)
    for name in commands:
        assert f"station {name}" in README, name


def test_files_that_the_readme_links_to_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
