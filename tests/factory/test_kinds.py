"""One line, two kinds of station: this machine, and one that is away; there and back until both have their bundle."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from export.runtime import measuring
from export.runtime.cli import main as station_command
from export.runtime.keys import new_key
from export.runtime.station import Station
from export.runtime.timing import Effort
from factory.cost import book, design, table
from factory.kinds import Served, serve, verdict
from factory.profiles import load_line
from factory.search.candidate import Candidate
from factory.search.shortlist import Entry
from tests.test_readme import blocks
from tests.tiny import factory, make_images, make_line

AWAY = 'description = "the PC of hall 7"\nruntime = "onnxruntime-cpu"\nmeasured = "station"\n'
STATIONS = '\n[[stations]]\ndevice = "hall-7"\nlatency_ms = 0.5\nsize_mb = 0.2\n'
QUICK = Effort(rounds=2, seconds=0.0, runs=5, warm_up_s=0.0)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workstation's folder with a tiny line of two kinds of station, and a key; quick timings."""
    for owner, name, value in (
        (measuring, "CARRIED", QUICK), (book, "SECONDS", 0.002), (book, "CONFIRMED", QUICK),
        (table, "MEASURED", 10), (design, "DRAWS", 200),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, value)
    folder = tmp_path / "work"
    for name in ("lines", "devices"):
        (folder / "profiles" / name).mkdir(parents=True)
    path = make_line(folder / "profiles" / "lines", make_images(folder / "images"), epochs=2)
    path.write_text(path.read_text() + STATIONS)
    (folder / "profiles" / "devices" / "hall-7.toml").write_text(AWAY)
    new_key(folder / "work.key")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FACTORY_KEY", "work.key")
    monkeypatch.setenv("STATION_STORE", str(tmp_path / "store"))
    return folder


def walk(number: int) -> None:
    """Carry a kit to the station and its figures home, by the commands that the refusal names."""
    kit, home = f"kit{number}", f"{number}.measured"
    assert factory("measure", "hall-7", "--kit", kit).exit_code == 0
    assert station_command(["measure", kit, "--out", home, "--trust", "work.key.pub"]) == 0
    (key,) = Path("..").rglob("station.key.pub")
    result = factory("measure", "hall-7", "--read", home, "--trust", key)
    assert result.exit_code == 0, result.output


def run_with_walks(*options: str) -> tuple[Result, int]:
    """Run the line, walking to the station as often as the command asks for it."""
    for walks in range(9):
        result = factory("run", "tiny", "--json", *options)
        if result.exit_code != 3:
            return result, walks
        assert "factory measure hall-7 --kit kit" in result.stderr
        walk(walks)
    raise AssertionError("there is no end of walking")


def test_a_line_with_two_kinds_of_station_is_searched_once_and_each_gets_its_bundle(work: Path) -> None:
    result, walks = run_with_walks()
    assert result.exit_code == 0, result.output
    assert walks == 4  # what the search begins with, its front, the shortlist, the files that are delivered
    document = json.loads(result.stdout)
    here, there = document["stations"]
    assert (here["device"], there["device"]) == ("cpu-x86", "hall-7")
    assert here["latency_ms"] <= 1.0 and there["latency_ms"] <= 0.5 and there["size_mb"] <= 0.2
    assert here["bundle"] != there["bundle"]
    for told in (here, there):
        bundle = Path(told["bundle"])
        manifest = json.loads((bundle / "manifest.json").read_text())
        assert manifest["device"]["name"] == manifest["budget"]["device"] == told["device"]
        assert manifest["provenance"]["genome"] == told["genome"]
        Station.load(bundle, [Path("work.key.pub")])
    measured = json.loads(Path("profiles/devices/hall-7.measured.json").read_text())["networks"]
    (searched,) = Path("runs/tiny").glob("search-*")
    fronts = json.loads((searched / "search.json").read_text())["targets"]
    assert {device: bool(told["front"]) for device, told in fronts.items()} == {"cpu-x86": True, "hall-7": True}
    assert len(measured) >= len(fronts["hall-7"]["front"])
    rows = {row["device"]: row for row in document["kinds"]}
    for told in (here, there):
        row, page = rows[told["device"]], Path(told["report"]).read_text(encoding="utf-8")
        assert row["own"]["genome"] == told["genome"]
        assert "Which network does each kind of station get?" in page
        if row["one_for_all"] is not None:
            assert row["one_for_all"]["val_loss"] >= row["own"]["val_loss"]
            assert row["one_for_all"]["latency_ms"] <= row["latency_budget_ms"]

    again = factory("search", "tiny", "--json")
    documents = json.loads(again.stdout)["stations"]
    assert [told["device"] for told in documents] == ["cpu-x86", "hall-7"]
    assert "search: running" not in again.stderr
    refused = factory("bench", "tiny")
    assert refused.exit_code == 2
    assert "several kinds of station: expected one of cpu-x86, hall-7, found no --device" in refused.stderr
    assert json.loads(factory("bench", "tiny", "--device", "hall-7", "--json").stdout)["device"] == "hall-7"
    unknown = factory("bench", "tiny", "--device", "hall-8")
    assert unknown.exit_code == 2 and "expected cpu-x86 or hall-7, found hall-8" in unknown.stderr

    for command in blocks("kinds")[0]:
        name, *arguments = shlex.split(command.replace("my-line", "tiny"))
        given = factory(*arguments)
        assert (name, given.exit_code) == ("factory", 0), given.output

    profile = work / "profiles" / "lines" / "tiny.toml"
    profile.write_text(profile.read_text().replace("shortlist = 2", "shortlist = 2\none_network = true"))
    shared = rows["cpu-x86"]["one_for_all"]
    result, walks = run_with_walks()
    if shared is None:
        assert result.exit_code == 1 and "keeps the budgets of all kinds of station" in result.stderr
    else:
        both = json.loads(result.stdout)["stations"]
        assert [told["genome"] for told in both] == [shared["genome"]] * 2
        assert walks <= 1  # for the files, if they were not measured yet


def test_a_profile_with_several_kinds_is_held_to_its_rules(work: Path) -> None:
    profile = work / "profiles" / "lines" / "tiny.toml"
    line, _ = load_line("tiny")
    assert line.devices == ("cpu-x86", "hall-7")
    other = line.at("hall-7")
    assert other.devices == ("hall-7", "cpu-x86") and other.budget.size_mb == 0.2
    assert other.at("cpu-x86") == line
    text = profile.read_text()
    for wrong, words in (
        (text.replace('device = "hall-7"', 'device = "cpu-x86"'), "must be of different devices"),
        (text.replace("latency_ms = 0.5", "latency = 0.5"), "latency"),
        (text.replace(STATIONS, "").replace("repeats = 1", "repeats = 1\none_network = true"), "several [[stations]]"),
    ):
        profile.write_text(wrong)
        result = factory("check-data", "tiny")
        assert result.exit_code == 2 and words in result.stderr, result.output


def entry(genome: str, ms: float, accuracy: float, loss: float, everywhere: bool) -> Entry:
    return Entry("candidate", Candidate(genome, 1, 0.1, 1, ms, 1.0, 0.5, 1.0, ms), ms, everywhere, accuracy, loss, [])


def test_what_one_network_for_all_costs_is_said_kind_by_kind(work: Path) -> None:
    line, _ = load_line("tiny")
    best, shared = entry("big", 0.9, 0.80, 0.40, False), entry("small", 0.3, 0.76, 0.45, True)
    kinds = serve(line, {"cpu-x86": [best, shared], "hall-7": [shared]})
    assert [(k.device, k.own.candidate.genome, k.budget_ms) for k in kinds] == [
        ("cpu-x86", "big", 1.0),
        ("hall-7", "small", 0.5),
    ]
    assert kinds[0].points == pytest.approx(4.0) and kinds[0].loss == pytest.approx(0.05)
    assert verdict(kinds) == (
        "One network for all, small, would cost 4.0 points of balanced accuracy and 0.050 of loss on cpu-x86, nothing "
        "on hall-7, by the short trainings."
    )
    alike = serve(line, {"cpu-x86": [shared], "hall-7": [shared]})
    assert verdict(alike) == "The same network is the best for every kind of station."
    none = [Served(k.device, k.budget_ms, replace(k.own, everywhere=False), None) for k in kinds]
    assert "No network of the shortlist keeps the budgets" in verdict(none)
    assert serve(line.model_copy(update={"stations": ()}), {"cpu-x86": [best]}) == []
