"""`factory init`: the profile it writes loads, and says what it found."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
