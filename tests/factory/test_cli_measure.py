"""`factory measure` on this machine, and by way of a station: this machine again, from another folder."""

import errno
import json
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import Result
from onnx import TensorProto, helper, numpy_helper

from export.runtime import fingerprint, measuring
from export.runtime.cli import main as station
from export.runtime.keys import load_private, new_key
from export.runtime.kit import MEASUREMENTS_DOMAIN, read_kit
from export.runtime.strictjson import canonical_bytes
from export.runtime.timing import Effort, Summary
from export.runtime.trust import load_trusted, sign
from factory import measuring as module
from factory.cost import book, design, table
from factory.cost.probe import probe
from factory.spaces.plan import Input
from factory.spaces.residual import plan, random_genome
from factory.workspace import sha256
from tests.tiny import factory, make_images, make_line

AWAY = 'description = "the PC of hall 7"\nruntime = "onnxruntime-cpu"\nmeasured = "station"\n'
QUICK = Effort(rounds=2, seconds=0.0, runs=3, warm_up_s=0.0)
FIGURES = {field.name for field in fields(Summary)}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workstation's folder with a tiny line, a device that is measured at its station, and a key; quick timings."""
    for owner, name, value in (
        (measuring, "CARRIED", QUICK), (module, "EFFORT", QUICK), (book, "SECONDS", 0.002),
        (table, "MEASURED", 8), (design, "DRAWS", 200),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, value)
    folder = tmp_path / "work"
    for name in ("lines", "devices"):
        (folder / "profiles" / name).mkdir(parents=True)
    make_line(folder / "profiles" / "lines", make_images(folder / "images", number=2), latency_ms=0.1)
    (folder / "profiles" / "devices" / "pc-7.toml").write_text(AWAY)
    new_key(folder / "work.key")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FACTORY_KEY", "work.key")
    monkeypatch.setenv("STATION_STORE", str(tmp_path / "store"))
    return folder


@pytest.fixture
def _no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(*_: object, **__: object) -> None:
        raise AssertionError("timed on this machine")

    monkeypatch.setattr(book, "measure", timed)
    monkeypatch.setattr(module, "time_variants", timed)


def write_models(folder: Path, number: int = 2, side: int = 24) -> list[Path]:
    rng, picture = np.random.default_rng(5), Input(side, side, 1)
    paths = [folder / f"net{index}.onnx" for index in range(number)]
    for path in paths:
        path.write_bytes(probe(plan(random_genome(rng, picture), picture, 2)))
    return paths


def measure(*arguments: str | Path) -> Result:
    return factory("measure", *arguments)


def refused(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for part in parts:
        assert part in result.stderr, result.stderr


def test_files_are_timed_in_every_way_and_the_machine_is_told(work: Path) -> None:
    a, b = write_models(work)
    options = ("--batch", "1", "--batch", "3", "--rhythm-ms", "2", "--json")
    result = measure("cpu-x86", "--model", a, "--model", b, *options)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    rows = document["rows"]
    ways = ("back to back", "without transfers", "after idle")
    assert [(r["model"], r["batch"], r["way"]) for r in rows] == [
        (str(path), batch, way) for path in (a, b) for batch in (1, 3) for way in ways
    ]
    for row in rows:
        assert set(row) >= FIGURES
        assert (row["provider"], row["runs"]) == ("CPUExecutionProvider", 6)
        assert row["sha256"] == sha256(Path(row["model"]).read_bytes())
    assert document["device"] == {
        "name": "cpu-x86", "runtime": "onnxruntime-cpu", "threads": 1, "measured": "here",
    }  # fmt: skip
    assert document["every_ms"] == 2
    assert document["fingerprint"]["identity"] == fingerprint.fingerprint("onnxruntime-cpu").identity
    shown = measure("cpu-x86", "--model", a, "--rhythm-ms", "0").stdout
    assert "net0.onnx, batch 1, back to back" in shown and "every" not in shown
    assert "CPUExecutionProvider" in shown and "identity: processor" in shown and "circumstances: time" in shown


Sizes = list[int | str]


def foreign(path: Path, taken: tuple[int, Sizes], given: tuple[int, Sizes]) -> Path:
    """An ONNX file that takes "x" and gives "y": the frame as numbers, in a matrix whatever its shape."""
    nodes = [
        helper.make_node("Cast", ["x"], ["real"], to=given[0]),
        helper.make_node("Reshape", ["real", "shape"], ["y"]),
    ]
    shape = numpy_helper.from_array(np.array([1, -1]), "shape")
    values = [helper.make_tensor_value_info(name, *what) for name, what in (("x", taken), ("y", given))]
    body = helper.make_graph(nodes, "g", values[:1], values[1:], [shape])
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_files_that_are_no_such_model_are_refused(work: Path) -> None:
    (work / "text.onnx").write_text("no model at all")
    refused(measure("cpu-x86", "--model", work / "text.onnx"), 2, "text.onnx is no ONNX file")
    refused(measure("cpu-x86", "--model", work / "none.onnx"), 2, "cannot read", "none.onnx")
    (work / "empty.onnx").write_bytes(b"")
    refused(measure("cpu-x86", "--model", work / "empty.onnx"), 2, "found nothing in, nothing out")


UINT8, FLOAT, HALF = TensorProto.UINT8, TensorProto.FLOAT, TensorProto.FLOAT16


@pytest.mark.parametrize(
    ("taken", "given", "told"),
    [
        ((FLOAT, ["n", 3, 32, 32]), (FLOAT, ["n", 9]), "x float (n, 3, 32, 32)"),
        ((FLOAT, ["n", 32, 32, 3]), (FLOAT, ["n", 9]), "x float (n, 32, 32, 3)"),
        ((UINT8, ["n", 3, 32, 32]), (FLOAT, ["n", 9]), "x uint8 (n, 3, 32, 32)"),
        ((UINT8, ["n", "h", "w", 3]), (FLOAT, ["n", 9]), "x uint8 (n, h, w, 3)"),
        ((UINT8, [4, 32, 32, 3]), (FLOAT, [4, 9]), "x uint8 (4, 32, 32, 3)"),
        ((UINT8, ["n", 32, 32, 3]), (HALF, ["n", 9]), "y float16 (n, 9)"),
        ((UINT8, ["n", 32, 32, 3]), (FLOAT, ["n", 32, 32, 3]), "y float (n, 32, 32, 3)"),
    ],
)
def test_models_of_another_contract_are_refused(
    work: Path, taken: tuple[int, Sizes], given: tuple[int, Sizes], told: str
) -> None:
    path = foreign(work / "foreign.onnx", taken, given)
    expected = "expected uint8 (N, height, width, 1 or 3) in, float (N, classes) out, N 1 or any"
    refused(measure("cpu-x86", "--model", path), 2, expected, told, "factory export")


def test_more_frames_than_a_model_takes_are_refused_in_the_words_of_every_runner(work: Path) -> None:
    """With a batch that is declared to be 1, and with one that is any by its declaration alone."""
    options = ("--batch", "4", "--rhythm-ms", "0")
    one = foreign(work / "one.onnx", (UINT8, [1, 4, 4, 1]), (FLOAT, [1, 16]))
    said = "the network does not take so many frames at once: expected a batch of 1, found a batch of 4"
    refused(measure("cpu-x86", "--model", one, *options), 2, said, "Send one frame at a time")
    liar = foreign(work / "liar.onnx", (UINT8, ["n", 4, 4, 1]), (FLOAT, ["n", 16]))
    refused(measure("cpu-x86", "--model", liar, *options), 1, "expected float32 logits (4, 16), found float32 (1, 64)")


def test_the_networks_of_a_line_are_timed_here(work: Path) -> None:
    result = measure("cpu-x86", "--line", "tiny", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert len(document["rows"]) == 8 and all(row["p50_ms"] > 0 for row in document["rows"])
    assert document["line"] == "tiny" and document["fingerprint"]["identity"]["cores"] >= 1
    shown = measure("cpu-x86", "--line", "tiny")
    assert all(row["genome"] in shown.stdout for row in document["rows"])
    assert "latency: complete, reused" in shown.stderr and "next: factory search tiny" in shown.stderr


def follow(error: str, store: Path) -> None:
    """Type the three commands that an error names, the second at the station."""
    kit, there, back = (
        shlex.split(line.split("(at the station)")[0])
        for line in error.splitlines()
        if re.match("  (factory|station) ", line)
    )
    assert (kit[0], there[0], back[0]) == ("factory", "station", "factory")
    result = factory(*kit[1:])
    assert result.exit_code == 0, result.output
    assert station([*there[1:], "--trust", "work.key.pub"]) == 0
    result = factory(*(str(store / arg) if arg == "station.key.pub" else arg for arg in back[1:]))
    assert result.exit_code == 0, result.output


@pytest.mark.usefixtures("_no_timing")
def test_there_and_back_until_the_line_knows_all(work: Path, tmp_path: Path) -> None:
    rounds = 0
    while (result := measure("pc-7", "--line", "tiny", "--json")).exit_code == 3:
        rounds += 1
        assert rounds < 4, result.stderr
        follow(result.stderr, tmp_path / "store")
        for left in (work / "kit", work / "pc-7.measured"):
            left.rename(tmp_path / f"{left.name}-{rounds}")
        assert not list((work / "runs" / "devices").rglob("*.onnx"))  # no longer wanted
    assert result.exit_code == 0, result.output
    assert rounds == 1  # one walk to the station
    document = json.loads(result.stdout)
    assert document["device"]["measured"] == "station"
    kept = json.loads((work / "profiles" / "devices" / "pc-7.measured.json").read_text())
    assert sorted(row["p50_ms"] for row in document["rows"]) == sorted(
        entry["latency"]["p50_ms"] for entry in kept["networks"].values()
    )
    assert len(kept["files"]) == rounds
    assert document["fingerprint"]["identity"] == kept["identity"]
    assert not list((work / "runs" / "devices").glob("*.json"))
    refused(measure("pc-7", "--line", "tiny", "--kit", work / "more"), 2, "nothing is left to measure", "none under")


@pytest.mark.usefixtures("_no_timing")
def test_files_travel_too(work: Path, tmp_path: Path) -> None:
    a, b = write_models(work)
    asked = ("pc-7", "--model", a, "--model", b, "--json")
    result = measure(*asked)
    refused(result, 3, "2 of 2 networks are not measured on device 'pc-7'")
    follow(result.stderr, tmp_path / "store")
    rows = json.loads(measure(*asked).stdout)["rows"]
    assert [row["sha256"] for row in rows] == [sha256(path.read_bytes()) for path in (a, b)]
    assert all(row["runs"] == 6 for row in rows)


def test_why_a_device_is_not_this_machine_is_told(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model,) = write_models(work, 1)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for device, because in (
        ("pc-7", 'its profile says measured = "station"'),
        ("rtx-station", "tensorrt-rtx builds and runs its engines there"),
        ("gpu-onnxruntime", "ONNX Runtime here has only CPUExecutionProvider"),
    ):
        refused(measure(device, "--model", model), 3, f"on device {device!r}, which is not this machine ({because}): ")


def test_a_kit_holds_the_pictures_of_its_line_alone(work: Path, trusting: Callable[[], dict]) -> None:
    (small,) = write_models(work, 1, side=16)
    assert measure("pc-7", "--model", small).exit_code == 3
    result = measure("pc-7", "--line", "tiny", "--kit", "kit", "--json")
    assert result.exit_code == 0, result.output
    kit = read_kit(work / "kit", trusting())
    assert {(n.frame.height, n.frame.width, n.frame.channels) for n in kit.manifest.networks} == {(24, 24, 1)}
    assert json.loads(result.stdout) == {
        "kit": "kit", "id": kit.id, "networks": len(kit.contents), "bytes": sum(map(len, kit.contents.values())),
    }  # fmt: skip
    assert "station measure kit --out pc-7.measured" in result.stderr
    refused(measure("pc-7", "--kit", "kit"), 2, "kit exists already")
    refused(measure("pc-7", "--kit", "other", "--key", "none.key"), 2, "cannot read the key none.key")
    assert measure("pc-7", "--kit", "all").exit_code == 0
    assert len(read_kit(work / "all", trusting()).contents) == len(kit.contents) + 1


@pytest.fixture
def trusting() -> Callable[[], dict]:
    return lambda: dict(load_trusted([Path("work.key.pub")]))


@pytest.fixture
def figures(work: Path, tmp_path: Path) -> Path:
    """What the station measured of one small network."""
    write_models(work, 1)
    assert measure("pc-7", "--model", "net0.onnx").exit_code == 3
    assert measure("pc-7", "--kit", "kit").exit_code == 0
    assert station(["measure", "kit", "--out", "figures", "--trust", "work.key.pub"]) == 0
    return work / "figures"


def test_what_comes_back_is_refused_unless_it_belongs_here(work: Path, tmp_path: Path, figures: Path) -> None:
    trust = ("--trust", tmp_path / "store" / "station.key.pub")
    data, kept = figures.read_bytes(), work / "profiles" / "devices" / "pc-7.measured.json"
    refused(measure("pc-7", "--read", figures), 2, "found no --trust")
    refused(measure("pc-7", "--read", figures, "--trust", "work.key.pub"), 1, "by a key not trusted here")
    refused(measure("pc-7", "--read", work / "none", *trust), 1, "cannot read")
    refused(measure("pc-7", "--read", work / "kit" / "manifest.json", *trust), 1, "is no whole file of measurements")
    figures.write_bytes(data[:-20])
    refused(measure("pc-7", "--read", figures, *trust), 1, "cut short", "Copy it again from the station")
    figures.write_bytes(data.replace(b'"cores"', b'"bores"'))
    refused(measure("pc-7", "--read", figures, *trust), 1, "was changed after signing")
    figures.write_bytes(data)
    (work / "profiles" / "devices" / "pc-8.toml").write_text(AWAY)
    refused(measure("pc-8", "--read", figures, *trust), 2, "for another device: expected pc-8, found pc-7")
    refused(measure("cpu-x86", "--read", figures, *trust), 2, "'cpu-x86' is measured on this machine")
    profile = work / "profiles" / "devices" / "pc-7.toml"
    profile.write_text(AWAY + "threads = 2\n")
    refused(measure("pc-7", "--read", figures, *trust), 2, "with other settings: expected threads 2, found threads 1")
    profile.write_text(AWAY)
    line = work / "profiles" / "lines" / "tiny.toml"
    line.write_text(line.read_text().replace("height = 24", "height = 32"))
    other = measure("pc-7", "--read", figures, "--line", "tiny", *trust)
    refused(other, 2, "expected 32x24x1, 2 classes, found 24x24x1, 2 classes")
    assert not kept.exists()
    assert measure("pc-7", "--read", figures, *trust).exit_code == 0
    assert kept.exists()


def test_figures_of_another_machine_are_not_mixed_in(work: Path, tmp_path: Path, figures: Path) -> None:
    trust = ("--trust", tmp_path / "store" / "station.key.pub")
    result = measure("pc-7", "--read", figures, *trust, "--json")
    answer = json.loads(result.stdout)
    assert (answer["networks"], answer["new"], answer["file"]) == (1, 1, "profiles/devices/pc-7.measured.json")
    assert json.loads(measure("pc-7", "--read", figures, *trust, "--json").stdout)["new"] == 0
    document = json.loads(figures.read_bytes().splitlines()[0])
    document["identity"]["processor"] = "another processor"
    signed = canonical_bytes(document)
    private = load_private(tmp_path / "store" / "station.key")
    figures.write_bytes(signed + sign(signed, private, MEASUREMENTS_DOMAIN).hex().encode() + b"\n")
    refused(
        measure("pc-7", "--read", figures, *trust), 2, "on another machine", "found processor another processor",
        "delete profiles/devices/pc-7.measured.json to begin anew",
    )  # fmt: skip


def test_a_full_disk_is_told_by_what_could_not_be_written(
    work: Path, tmp_path: Path, figures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    there = "expected a place with space that can be written, found No space left on device"
    refused(measure("pc-7", "--kit", "more"), 2, "cannot write more", there, "name another folder by --kit")
    assert not list(work.glob("*more*"))
    trust = ("--trust", tmp_path / "store" / "station.key.pub")
    refused(measure("pc-7", "--read", figures, *trust), 2, "cannot write profiles/devices/pc-7.measured.json", there)
    assert {path.name for path in (work / "profiles" / "devices").iterdir()} == {"pc-7.toml"}


def test_a_device_that_is_here_needs_no_kit(work: Path) -> None:
    refused(measure("cpu-x86", "--kit", "kit"), 2, "measured on this machine, not at a station", 'measured = "station"')
    assert not (work / "kit").exists()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("", "found nothing"),
        ("--model a.onnx --line tiny", "found --model and --line"),
        ("--kit a --read b", "found --kit and --read"),
        ("--model a.onnx --kit b", "found --model and --kit"),
    ],
)
def test_one_thing_at_a_time(arguments: str, found: str, work: Path) -> None:
    refused(measure("pc-7", *arguments.split()), 2, "say one thing to measure", found)


def test_two_onnxruntimes_are_refused(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model,) = write_models(work, 1)
    monkeypatch.setattr(fingerprint, "version", lambda name: "1.31.1")
    refused(
        measure("cpu-x86", "--model", model), 3, "left to chance", "pip uninstall onnxruntime onnxruntime-gpu, then"
    )
    refused(
        measure("cpu-x86", "--line", "tiny"), 3, "left to chance", "pip uninstall onnxruntime onnxruntime-gpu, then"
    )
