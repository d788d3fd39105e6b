"""Profiles that the tool writes: the one of `factory init` loads, and a pilot's word changes nothing else."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export.runtime.errors import UsageError
from factory.evidence.pilot import arms
from factory.newline import write_swapout
from factory.profiles import load_line
from tests.tiny import factory, make_images


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_written_profile_loads_with_the_good_class_first(tmp_path: Path) -> None:
    make_images(tmp_path / "pictures", 6, side=50)
    result = factory("init", "my-line", "--images", "pictures", "--good", "scratch")
    assert result.exit_code == 0, result.output
    assert "next: " in result.stderr
    line, root = load_line("my-line")
    assert root == (tmp_path / "pictures").resolve()
    assert line.classes.labels == ("scratch", "good")
    assert line.classes.good == "scratch"
    assert (line.input.height, line.input.width, line.input.channels) == (48, 48, 1)
    assert line.acceptance.escape_max == 0.05


def test_colour_and_a_wide_camera_are_seen(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        pixels = np.zeros((100, 400, 3), np.uint8)
        pixels[..., 0] = 200
        Image.fromarray(pixels).save(tmp_path / "pictures" / label / "0.png")
    assert factory("init", "wide", "--images", "pictures").exit_code == 0
    line, _ = load_line("wide")
    assert (line.input.height, line.input.width, line.input.channels) == (64, 256, 3)
    assert line.classes.good is None
    assert line.acceptance.balanced_accuracy_min == 0.9


def test_a_list_is_preferred_to_folders(tmp_path: Path) -> None:
    root = make_images(tmp_path / "pictures", 2)
    (root / "labels.csv").write_text("path,label\ngood/000.png,ok\nscratch/000.png,bad\n")
    assert factory("init", "listed", "--images", "pictures", "--good", "ok").exit_code == 0
    line, _ = load_line("listed")
    assert (line.images.layout, line.images.csv, line.classes.labels) == ("csv", "labels.csv", ("ok", "bad"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("my-line", "--images", "pictures", "--good", "gold"), ("no class named 'gold'", "good, scratch")),
        (("My Line", "--images", "pictures"), ("'My Line' is no line name", "small letters")),
        (("my-line", "--images", "nowhere"), ("no folder of images",)),
        (("my-line", "--images", "pictures", "--device", "cpu-x68"), ("no device profile", "cpu-x86")),
    ],
)
def test_what_will_not_do_is_refused_and_nothing_is_written(
    tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    make_images(tmp_path / "pictures", 2)
    result = factory("init", *arguments)
    assert result.exit_code == 2
    for word in words:
        assert word in result.stderr
    assert not (tmp_path / "profiles").exists()


def test_a_profile_is_never_overwritten(tmp_path: Path) -> None:
    make_images(tmp_path / "pictures", 2)
    assert factory("init", "my-line", "--images", "pictures").exit_code == 0
    before = Path("profiles/lines/my-line.toml").read_bytes()
    again = factory("init", "my-line", "--images", "pictures", "--good", "good")
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert Path("profiles/lines/my-line.toml").read_bytes() == before


# a pilot's word

TOP = """\
# Caps, as agreed in May.
[images]
root = "pictures"  # beside this file

[classes]
labels = ["good", "scratch"]

[input]
height = 24
width = 24
channels = 1

[budget]
device = "cpu-x86"
latency_ms = 1.0
size_mb = 0.5

"""
NEW: dict[str, Any] = {"method": "swapout", "stream": {"linear": [1.0, 0.8]}, "per": "channel"}
END = """
# What the customer signed:
[acceptance]
balanced_accuracy_min = 0.8  # for now
"""
SWAPOUT = """[training.swapout]
method = "swapout"
stream = {linear = [1.0, 0.8]}
per = "channel"
"""


def line(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "caps.toml"
    path.write_bytes(text.encode())
    load_line(str(path))
    return path


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"\n{SWAPOUT}"),
        ("[training]\nepochs = 3  # few\n", f"[training]\nepochs = 3  # few\n\n{SWAPOUT}"),
        (
            "[training]\nepochs = 3\n\n[training.augmentation]\nshift = 0.0  # they lie still\n",
            "[training]\nepochs = 3\n\n[training.augmentation]\nshift = 0.0  # they lie still\n\n" + SWAPOUT,
        ),
        (
            '[training]\nepochs = 3\n\n[training.swapout]\nmethod = "plain"\n',
            f"[training]\nepochs = 3\n\n{SWAPOUT}",
        ),
        (
            '[training.swapout]\nmethod = "swapout"\n[training.swapout.stream]\nconstant = 0.9\n'
            "[training.swapout.branch]\nlinear = [1.0, 0.9]\n",
            SWAPOUT,
        ),
        (
            '[training]\nepochs = 3\nswapout = { method = "plain" }\nbatch = 8  # small\n',
            f"[training]\nepochs = 3\nbatch = 8  # small\n\n{SWAPOUT}",
        ),
        (
            '[training]\nepochs = 3\nswapout.method = "plain"\nbatch = 8  # small\n',
            f"[training]\nepochs = 3\nbatch = 8  # small\n\n{SWAPOUT}",
        ),
    ],
    ids=["no training", "no swapout", "another table", "replaced", "nested", "inline", "dotted"],
)
def test_the_table_is_written_and_every_other_line_stays(tmp_path: Path, before: str, after: str) -> None:
    path = line(tmp_path, TOP + before + END)
    assert write_swapout(str(path), NEW) == path
    if before:
        assert path.read_text() == TOP + after + END
    else:  # a table that was not there at all comes last
        assert path.read_text() == TOP + END + after
    again = path.read_bytes()
    write_swapout(str(path), NEW)
    assert path.read_bytes() == again


def test_a_table_far_from_its_training_is_replaced_where_it_stands(tmp_path: Path) -> None:
    apart = TOP + "[training]\nepochs = 3\n" + END + '\n[training.swapout]\nmethod = "plain"\n# the end\n'
    path = line(tmp_path, apart)
    write_swapout(str(path), NEW)
    assert path.read_text() == TOP + "[training]\nepochs = 3\n" + END + f"\n{SWAPOUT}# the end\n"


@pytest.mark.parametrize("stages", [(0, 0), (0, 1, 2)])
def test_every_arm_of_a_pilot_comes_back_from_the_file(tmp_path: Path, stages: tuple[int, ...]) -> None:
    path = line(tmp_path, TOP + "[training]\nepochs = 3\n" + END)
    rest = tomllib.loads(path.read_text())
    for settings in arms(stages, 0).values():
        write_swapout(str(path), settings.model_dump(mode="json", exclude_none=True))
        assert load_line(str(path))[0].training.swapout == settings
        found = tomllib.loads(path.read_text())
        del found["training"]["swapout"]
        assert found == rest


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "plain", "per": "unit"}, "plain has no per"),
        ({"method": "swapout", "stream": {"constant": 0.01}}, "training.swapout.stream.constant"),
        ({"method": "drop"}, "training.swapout.method"),
        ({"frist": 1.0}, "training.swapout.frist: unknown key"),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_settings_that_are_not_valid_leave_the_file_as_it_was(
    tmp_path: Path, settings: dict[str, Any], said: str, ending: str
) -> None:
    path = line(tmp_path, (TOP + '[training.swapout]\nmethod = "dropout"  # tried\n' + END).replace("\n", ending))
    before = path.read_bytes()
    with pytest.raises(UsageError) as caught:
        write_swapout(str(path), settings)
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["caps.toml"]


@pytest.mark.parametrize("training", ["training = { epochs = 3 }\n", "training.epochs = 3\ntraining.batch = 8\n"])
def test_a_training_that_cannot_hold_a_table_is_left_alone_and_told(tmp_path: Path, training: str) -> None:
    path = line(tmp_path, training + TOP)
    with pytest.raises(UsageError, match=r"caps\.toml: training\.swapout cannot be written there.*header \[training\]"):
        write_swapout(str(path), NEW)
    assert path.read_text() == training + TOP


def test_a_profile_that_is_wrong_already_is_refused_as_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "caps.toml").write_text("[images\n")
    with pytest.raises(UsageError, match="not valid TOML"):
        write_swapout(str(tmp_path / "caps.toml"), NEW)
