"""What a user may get wrong: one clear message, the right exit code, nothing lost, no traceback."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

from tests.conftest import Finished
from tests.tiny import factory, make_images, make_line


def _refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert "error: " in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def _check(profile: Path, tmp_path: Path) -> Result:
    return factory("check-data", profile, "--runs", tmp_path / "runs")


def test_missing_image_folder(tmp_path: Path) -> None:
    profile = make_line(tmp_path, tmp_path / "nowhere")
    _refused(_check(profile, tmp_path), 2, "no folder of images", "nowhere", "images.root")


def test_empty_class(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 8)
    for picture in (images / "scratch").iterdir():
        picture.unlink()
    _refused(_check(make_line(tmp_path, images), tmp_path), 2, "scratch is empty")


def test_one_class_only(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 8)
    shutil.rmtree(images / "scratch")
    _refused(_check(make_line(tmp_path, images), tmp_path), 2, "no image of class scratch")
    _refused(factory("init", "other", "--images", images), 2, "two classes or more")


def test_corrupt_jpeg_among_good_ones_is_left_out_and_named(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 40)
    picture = Image.open(images / "good" / "000.png")
    picture.save(images / "good" / "broken.jpg")
    data = (images / "good" / "broken.jpg").read_bytes()
    (images / "good" / "broken.jpg").write_bytes(data[: len(data) // 2])
    result = _check(make_line(tmp_path, images), tmp_path)
    assert result.exit_code == 0, result.output
    assert "unreadable, left out: 1" in result.stdout
    assert "good/broken.jpg" in result.stdout


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("text.png", lambda path: path.write_text("not a picture")),
        ("empty.png", lambda path: path.write_bytes(b"")),
        ("cmyk.jpg", lambda path: Image.new("CMYK", (24, 24)).save(path)),
    ],
)
def test_files_that_are_no_usable_picture_are_named(tmp_path: Path, name: str, make: Callable[[Path], object]) -> None:
    images = make_images(tmp_path / "images", 40)
    make(images / "good" / name)
    result = _check(make_line(tmp_path, images), tmp_path)
    assert result.exit_code == 0, result.output
    assert f"good/{name}" in result.stdout


def test_huge_picture_is_named_without_being_decoded(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 40)
    Image.new("1", (20_000, 20_000)).save(images / "good" / "huge.png")
    result = _check(make_line(tmp_path, images), tmp_path)
    assert result.exit_code == 0, result.output
    assert "good/huge.png" in result.stdout
    assert "huge" in result.stdout


def test_too_many_unreadable_files_refuse_the_run(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 20)
    for number in range(6):
        (images / "good" / f"text{number}.png").write_text("no picture")
    result = _check(make_line(tmp_path, images), tmp_path)
    assert result.exit_code == 2
    assert "6 of 46 files cannot be read" in result.stdout


def test_the_same_picture_in_two_splits_refuses_the_run(tmp_path: Path, finished: Finished) -> None:
    source = make_images(tmp_path / "source", 20)
    images = tmp_path / "images"
    for split in ("train", "val", "test"):
        shutil.copytree(source, images / split)
    profile = make_line(tmp_path, images)
    assert _check(profile, tmp_path).exit_code == 2
    result = factory("run", profile, "--runs", tmp_path / "runs", "--key", finished.key)
    _refused(result, 2, "the same picture stands in two splits")


def test_wrong_key_in_the_profile_names_file_key_and_the_closest(tmp_path: Path) -> None:
    profile = make_line(tmp_path, tmp_path)
    profile.write_text(profile.read_text().replace("latency_ms", "latency_us"))
    _refused(_check(profile, tmp_path), 2, str(profile), "budget.latency_us", "latency_ms")


def test_unsatisfiable_budget_ends_at_once_with_exit_code_1(tmp_path: Path, finished: Finished) -> None:
    shutil.copytree(finished.runs / "devices", tmp_path / "runs" / "devices")
    profile = make_line(tmp_path, finished.images, size_mb=0.001)
    result = factory("space", profile, "--runs", tmp_path / "runs")
    _refused(result, 1, "size_mb is the tightest", "0.001")
    assert "what the space offers" in result.stdout
    result = factory("run", profile, "--runs", tmp_path / "runs", "--key", finished.key)
    _refused(result, 1, "size_mb is the tightest")


def test_missing_signing_key_is_told_before_the_work(tmp_path: Path) -> None:
    profile = make_line(tmp_path, tmp_path / "nowhere")
    _refused(factory("run", profile, "--runs", tmp_path / "runs", "--key", tmp_path / "no.key"), 2, "factory keys new")
    assert not (tmp_path / "runs").exists()


def test_device_that_cannot_be_measured_here(tmp_path: Path, finished: Finished) -> None:
    profile = make_line(tmp_path, finished.images)
    profile.write_text(profile.read_text().replace('"cpu-x86"', '"rtx-station"'))
    _refused(
        factory("space", profile, "--runs", tmp_path / "runs"),
        3,
        "rtx-station",
        "are not measured on device",
        "station measure kit",
    )


def test_full_disk(tmp_path: Path, finished: Finished) -> None:
    """A file-size limit of the process stands for the full disk: the same error at the same call."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from factory.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, "check-data", str(finished.profile), "--runs", str(tmp_path / "runs")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr
    assert "File too large" in result.stderr
    assert not list((tmp_path / "runs" / "tiny").glob("data-*"))
    assert _check(finished.profile, tmp_path).exit_code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a read-only folder")
def test_read_only_output_folder(tmp_path: Path, finished: Finished) -> None:
    (tmp_path / "runs").mkdir(mode=0o500)
    _refused(_check(finished.profile, tmp_path), 3, "Permission denied", "--runs")


def test_output_folder_that_is_a_file(tmp_path: Path, finished: Finished) -> None:
    (tmp_path / "runs").write_text("")
    result = _check(finished.profile, tmp_path)
    assert result.exit_code == 2
    assert "is a file" in result.stderr


def test_two_runs_of_one_line_at_once(tmp_path: Path, finished: Finished) -> None:
    shutil.copytree(finished.runs, tmp_path / "runs")
    code = "import sys\nfrom pathlib import Path\nfrom factory.workspace import Workspace\n"
    code += "with Workspace(Path(sys.argv[1]), 'tiny', print).locked():\n"
    code += "    print('held', flush=True)\n    sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "runs")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        _refused(_check(finished.profile, tmp_path), 2, "another run of line 'tiny' is at work", "--runs")
    assert _check(finished.profile, tmp_path).exit_code == 0


def test_a_changed_stage_is_refused(tmp_path: Path, finished: Finished) -> None:
    shutil.copytree(finished.runs, tmp_path / "runs")
    stage = next((tmp_path / "runs" / "tiny").glob("search-*"))
    (stage / "search.json").write_text("{}")
    result = factory("search", finished.profile, "--runs", tmp_path / "runs")
    _refused(result, 2, stage.name, "changed after it was complete", "delete that folder")


@pytest.mark.parametrize("stage", ["latency", "search", "shortlist", "train"])
def test_ctrl_c_in_a_stage_stops_with_one_line_and_the_same_command_goes_on(
    tmp_path: Path, finished: Finished, stage: str
) -> None:
    runs = tmp_path / "runs"
    if stage != "latency":
        shutil.copytree(finished.runs / "devices", runs / "devices")
    profile = make_line(tmp_path, finished.images, workers=2)
    command = [
        sys.executable,
        "-m",
        "factory.cli",
        "run",
        str(profile),
        "--runs",
        str(runs),
        "--key",
        str(finished.key),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith(f"{stage}: "))
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        rest = process.stderr.read()
    assert process.returncode == 130, rest
    assert "the same command goes on from there" in rest
    assert "Traceback" not in rest
    assert not list((runs / "tiny").glob(f"{stage}-*"))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as again:
        assert again.stderr is not None
        assert "resuming" in next(line for line in again.stderr if line.startswith(f"{stage}: "))
        again.kill()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("latency_ms = 1.0", "latency_ms = -1", ("budget.latency_ms", "> 0 and <= 10000", "-1")),
        ("latency_ms = 1.0", 'latency_ms = "1 ms"', ("budget.latency_ms", "> 0 and <= 10000", "1 ms")),
        ("height = 24", "height = 5000", ("input.height", ">= 16 and <= 1024", "5000")),
    ],
)
def test_impossible_values_name_the_allowed_range(tmp_path: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    profile = make_line(tmp_path, tmp_path)
    profile.write_text(profile.read_text().replace(old, new))
    _refused(_check(profile, tmp_path), 2, str(profile), *words)


def test_folders_beside_the_splits_are_not_silently_lost(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for split in ("train", "test", "more"):
        make_images(images / split, 8)
    _refused(_check(make_line(tmp_path, images), tmp_path), 2, "mixes splits with other folders", "more")
