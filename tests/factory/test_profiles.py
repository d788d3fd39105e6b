from pathlib import Path

import pytest

from export.runtime.engine_builder import EngineOptions
from export.runtime.errors import UsageError
from factory.profiles import SHIPPED, TeacherSettings, available, engine_device, load_device, load_line
from factory.swapout.schedule import Noise, Schedule

LINE = """\
[images]
root = "pictures"

[classes]
labels = ["good", "scratch"]
good = "good"

[input]
height = 32
width = 48
channels = 3

[budget]
device = "cpu-x86"
latency_ms = 1
size_mb = 0.5
"""
DEVICE = 'description = "a station"\nruntime = "onnxruntime-cpu"\nprecisions = ["fp32"]\n'


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(folder: Path, text: str, name: str = "cells.toml") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_a_line_profile_is_read_with_its_defaults_and_its_root_beside_it(tmp_path: Path) -> None:
    line, root = load_line(written(tmp_path / "lines", LINE, "cells-3.toml"))
    assert (line.name, root) == ("cells-3", tmp_path / "lines" / "pictures")
    assert (line.input.height, line.input.width, line.input.channels) == (32, 48, 3)
    assert line.budget.latency_ms == 1.0
    assert line.classes.labels == ("good", "scratch")
    assert line.images.split == (0.6, 0.2, 0.2)
    assert line.training.swapout.noise == Noise.swapout(Schedule.linear(1.0, 0.5))
    assert line.training.teacher is None
    assert (line.inspection.review_share, line.inspection.novelty_share) == (0.02, 0.005)
    assert not (line.training.augmentation.flip_horizontal or line.training.augmentation.quarter_turns)


def test_a_line_may_limit_its_space_and_the_order_of_a_list_says_nothing(tmp_path: Path) -> None:
    line, _ = load_line(written(tmp_path, LINE))
    assert line.space.kinds == ("basic", "bottle", "mb")
    assert line.space.stem_strides == (1, 2, 4)
    limited = LINE + '[space]\nkinds = ["mb", "basic", "mb"]\nwidths = [64, 8]\n'
    line, _ = load_line(written(tmp_path, limited))
    assert (line.space.kinds, line.space.widths) == (("basic", "mb"), (8, 64))
    assert (line.space.depths, line.space.kernels) == ((1, 2, 3, 4), (3, 5))


@pytest.mark.parametrize(
    ("text", "noise"),
    [
        ("", Noise.swapout(Schedule.linear(1.0, 0.5))),
        ('method = "plain"', Noise.plain()),
        ('method = "dropout"', Noise.dropout(Schedule.linear(1.0, 0.5))),
        ('method = "stochastic-depth"', Noise.stochastic_depth(Schedule.linear(1.0, 0.5), "layer")),
        (
            'method = "stochastic-depth"\nbranch = { constant = 0.8 }\nper = "sample"',
            Noise.stochastic_depth(Schedule.constant(0.8), "sample"),
        ),
        ('method = "skip-forward"\nstream = { constant = 0.75 }', Noise.skip_forward(Schedule.constant(0.75))),
        (
            'stream = { linear = [1.0, 0.8] }\nbranch = { blocks = [0.9, 0.7] }\nper = "channel"',
            Noise.swapout(Schedule.linear(1.0, 0.8), Schedule.per_block((0.9, 0.7)), "channel"),
        ),
        ("stream = { stages = [1.0, 0.5] }", Noise.swapout(Schedule.per_stage((1.0, 0.5)))),
    ],
)
def test_the_noise_of_the_training_is_the_profiles(text: str, noise: Noise, tmp_path: Path) -> None:
    line, _ = load_line(written(tmp_path, LINE + "[training.swapout]\n" + text))
    assert line.training.swapout.noise == noise


@pytest.mark.parametrize("kind", ["lite0", "lite1", "lite2", "samples", "shortlist"])
def test_a_teacher_is_named_by_its_kind(tmp_path: Path, kind: str) -> None:
    line, _ = load_line(written(tmp_path, LINE + f'[training.teacher]\nkind = "{kind}"\n'))
    assert line.training.teacher == TeacherSettings(kind=kind, epochs=8, side=None)
    line, _ = load_line(written(tmp_path, LINE + "[training.teacher]\nside = 64\n"))
    assert line.training.teacher == TeacherSettings(kind="lite0", epochs=8, side=64)


def test_a_teacher_that_is_a_file_lies_beside_the_profile_whatever_the_working_folder(tmp_path: Path) -> None:
    far = tmp_path / "far" / "own.pt2"
    for kind, place in (("nets/own.pt2", tmp_path / "lines" / "nets" / "own.pt2"), (str(far), far)):
        place.parent.mkdir(parents=True)
        path = written(tmp_path / "lines", LINE + f'[training.teacher]\nkind = "{kind}"\n')
        with pytest.raises(UsageError) as caught:
            load_line(path)
        for said in (path, "training.teacher.kind", str(place)):
            assert said in str(caught.value)
        place.write_bytes(b"")
        line, _ = load_line(path)
        assert line.training.teacher is not None and line.training.teacher.kind == str(place)


def test_an_absolute_root_stays_as_it_is(tmp_path: Path) -> None:
    _, root = load_line(written(tmp_path / "lines", LINE.replace('"pictures"', f'"{tmp_path}/far"')))
    assert root == tmp_path / "far"


@pytest.mark.parametrize("path", sorted((SHIPPED / "lines").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_line_loads_and_names_a_shipped_device(path: Path) -> None:
    line, root = load_line(path.stem)
    assert line.name == path.stem
    assert root.is_absolute()
    assert load_device(line.budget.device).runtime.startswith("onnxruntime")


@pytest.mark.parametrize("path", sorted((SHIPPED / "devices").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_device_loads(path: Path) -> None:
    assert load_device(path.stem).name == path.stem


def test_the_shipped_profiles_are_the_ones_the_project_promises() -> None:
    assert set(available("lines")) >= {"solar-cells", "steel-surface"}
    assert set(available("devices")) >= {"cpu-x86", "gpu-onnxruntime", "gpu-tensorrt", "rtx-station"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("latency_ms", "latncy_ms", "budget.latncy_ms: unknown key; did you mean 'latency_ms'?"),
        ("[images]", "[imagse]", "imagse: unknown key; did you mean 'images'?"),
        ("height = 32", "zzz = 32\nheight = 32", "input.zzz: unknown key; allowed here: height, width, channels"),
        (
            "[budget]",
            "[training.swapout]\nstraem = { constant = 1.0 }\n[budget]",
            "training.swapout.straem: unknown key; did you mean 'stream'?",
        ),
        (
            "[budget]",
            "[training.swapout.stream]\nconstnat = 1.0\n[budget]",
            "training.swapout.stream.constnat: unknown key; did you mean 'constant'?",
        ),
        (
            "[budget]",
            "[training.swapout.stream]\nconstant = 0.01\n[budget]",
            "greater than or equal to 0.05 (allowed: >= 0.05 and <= 1), found 0.01",
        ),
        (
            "[budget]",
            "[training.swapout.stream]\nconstant = 1.0\nlinear = [1.0, 0.5]\n[budget]",
            "give exactly one of ['constant', 'linear', 'stages', 'blocks'], found ['constant', 'linear']",
        ),
        ("[budget]", "[training.swapout.stream]\n[budget]", "training.swapout.stream: give exactly one of"),
        (
            "[budget]",
            '[training.swapout]\nmethod = "dropout"\nbranch = { constant = 0.5 }\n[budget]',
            "training.swapout: dropout has no branch: leave it out",
        ),
        (
            "[budget]",
            '[training.swapout]\nmethod = "stochastic-depth"\nper = "unit"\n[budget]',
            "stochastic-depth: expected one draw per 'layer' or 'sample', found 'unit'",
        ),
        (
            "[budget]",
            '[training.swapout]\nmethod = "feed-forward"\n[budget]',
            "training.swapout.method: input should be 'plain', 'dropout', 'stochastic-depth'",
        ),
        (
            "[budget]",
            "[training.swapout]\nstraem = { constant = 0.9 }\n[budget]",
            "training.swapout.straem: unknown key; did you mean 'stream'?",
        ),
        (
            "[budget]",
            '[training.swapout]\nmethod = "plain"\n[training.teacher]\nkind = "samples"\n[budget]',
            "training: teacher.kind = 'samples' needs noise in training.swapout",
        ),
        (
            "latency_ms = 1",
            'latency_ms = "1 ms"',
            "budget.latency_ms: input should be a valid number (allowed: > 0 and <= 10000), found '1 ms'",
        ),
        (
            "latency_ms = 1",
            "latency_ms = true",
            "budget.latency_ms: input should be a valid number (allowed: > 0 and <= 10000), found True",
        ),
        (
            "height = 32",
            "height = 32.5",
            "input.height: input should be a valid integer (allowed: >= 16 and <= 1024), found 32.5",
        ),
        (
            "height = 32",
            "height = 8",
            "input.height: input should be greater than or equal to 16 (allowed: >= 16 and <= 1024), found 8",
        ),
        (
            "height = 32",
            "height = 4096",
            "input.height: input should be less than or equal to 1024 (allowed: >= 16 and <= 1024), found 4096",
        ),
        (
            "latency_ms = 1",
            "latency_ms = 0",
            "budget.latency_ms: input should be greater than 0 (allowed: > 0 and <= 10000), found 0",
        ),
        ("latency_ms = 1", "latency_ms = nan", "budget.latency_ms: input should be"),
        ("size_mb = 0.5", "size_mb = inf", "budget.size_mb: input should be less than or equal to 1000"),
        ("channels = 3", "channels = 4", "input.channels: input should be 1 or 3, found 4"),
        ("size_mb = 0.5", "", "budget.size_mb: missing; this key is required"),
        ('root = "pictures"', "", "images.root: missing; this key is required"),
        ('root = "pictures"', 'root = "x"\nlayout = "folder"', "images.layout: input should be 'folders' or 'csv'"),
        ('root = "pictures"', 'root = "x"\nsplit = [0.5, 0.5]', "images.split.2: missing"),
        ('root = "pictures"', 'root = "x"\nsplit = [0.5, 0.4, 0.2]', "must each be above 0 and sum to 1"),
        ('root = "pictures"', 'root = "x"\nsplit = [0.5, 0.5, 0]', "must each be above 0 and sum to 1"),
        ('"good", "scratch"', '"good", "good"', "classes: labels must differ from each other"),
        ('"good", "scratch"', '"good"', "classes.labels: "),
        (
            'good = "good"',
            'good = "fine"',
            "classes: good must be one of labels ['good', 'scratch']",
        ),
        (
            'good = "good"',
            'merge = { hole = "dent" }',
            "classes: merge leads to ['dent'], which are not in labels ['good', 'scratch']",
        ),
        (
            'good = "good"',
            'merge = { hole = "good" }\ndrop = ["hole"]',
            "classes: ['hole'] stand in merge and in drop",
        ),
        (
            'good = "good"',
            "[acceptance]\nescape_max = 0.05",
            "acceptance.escape_max and overkill_max need classes.good",
        ),
        (
            "[budget]",
            "[search]\ncandidates = 20\npopulation = 30\n[budget]",
            "search.population must not exceed search.candidates",
        ),
        ('device = "cpu-x86"', 'device = "../evil"', "budget.device: string should match pattern"),
        (
            "[budget]",
            '[space]\nkinds = ["basic", "dense"]\n[budget]',
            "space.kinds.1: input should be 'basic', 'bottle' or 'mb', found 'dense'",
        ),
        ("[budget]", "[space]\ndepths = [5]\n[budget]", "space.depths.0: input should be 1, 2, 3 or 4, found 5"),
        ("[budget]", '[space]\nkernels = ["3"]\n[budget]', "space.kernels.0: input should be 3 or 5, found '3'"),
        (
            "[budget]",
            "[space]\nkernels = []\n[budget]",
            "space.kernels: the list is empty; choose from [3, 5], or leave it out to allow them all",
        ),
        ("[budget]", "[space]\nwidth = [8]\n[budget]", "space.width: unknown key; did you mean 'widths'?"),
        ("[budget]", '[training.teacher]\nkind = "lite3"\n[budget]', "training.teacher.kind: string should match"),
        ("[budget]", '[training.teacher]\nkind = "net.pth"\n[budget]', "training.teacher.kind: string should match"),
        ("[budget]", '[training.teacher]\nkind = ".pt2"\n[budget]', "training.teacher.kind: string should match"),
        (
            "[budget]",
            "[training.teacher]\nepochs = 0\n[budget]",
            "training.teacher.epochs: input should be greater than or equal to 1 (allowed: >= 1 and <= 1000), found 0",
        ),
        (
            "[budget]",
            "[training.teacher]\nside = 16\n[budget]",
            "training.teacher.side: input should be greater than or equal to 32 (allowed: >= 32 and <= 1024), found 16",
        ),
        (
            "[budget]",
            "[training.teacher]\nsize = 64\n[budget]",
            "training.teacher.size: unknown key; did you mean 'side'?",
        ),
    ],
)
def test_a_wrong_line_profile_is_refused_by_file_key_and_what_is_allowed(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    assert LINE.count(old) == 1
    path = written(tmp_path, LINE.replace(old, new))
    with pytest.raises(UsageError) as caught:
        load_line(path)
    assert f"{path} is not a valid profile" in str(caught.value)
    assert said in str(caught.value)


def test_every_wrong_key_is_told_at_once(tmp_path: Path) -> None:
    text = LINE.replace("height", "hight").replace("size_mb", "size_gb")
    with pytest.raises(UsageError) as caught:
        load_line(written(tmp_path, text))
    for said in ("input.hight: unknown", "input.height: missing", "budget.size_gb: unknown", "budget.size_mb: missing"):
        assert said in str(caught.value)


def test_the_name_is_the_files_and_no_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"name: unknown key; a profile is named by its file, 'cells'"):
        load_line(written(tmp_path, 'name = "other"\n' + LINE))
    with pytest.raises(UsageError) as caught:
        load_line(written(tmp_path, "[zzz]\n" + LINE))
    assert "zzz: unknown key; allowed here: images, classes, input" in str(caught.value)


def test_what_is_no_toml_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cells\.toml: not valid TOML: .*line 2"):
        load_line(written(tmp_path, "[images]\nroot = pictures\n"))
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(UsageError, match=r"latin\.toml: cannot be read"):
        load_line(str(tmp_path / "latin.toml"))


def test_an_unknown_name_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    written(tmp_path / "profiles" / "lines", LINE, "bottle-caps.toml")
    with pytest.raises(UsageError, match=r"no line profile named 'botle-caps'.*did you mean 'bottle-caps'\?"):
        load_line("botle-caps")
    with pytest.raises(UsageError, match=r"no device profile named 'cpu-x68'.*did you mean 'cpu-x86'\?"):
        load_device("cpu-x68")
    with pytest.raises(UsageError, match=r"no profile at missing\.toml"):
        load_line("missing.toml")


def test_a_profile_of_the_working_folder_goes_before_a_shipped_one(tmp_path: Path) -> None:
    written(tmp_path / "profiles" / "lines", LINE, "solar-cells.toml")
    assert load_line("solar-cells")[0].input.width == 48


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("onnxruntime-cpu", "openvino", "runtime: input should be 'onnxruntime-cpu', 'onnxruntime-cuda'"),
        ("fp32", "fp64", "precisions.0: input should be 'fp32', 'fp16' or 'int8'"),
        ('"fp32"', '"int8"', "fp32 must stand there"),
        ('"fp32"', "", "fp32 must stand there"),
        ('"fp32"', '"fp32", "fp32"', "each once"),
        ("precisions", "precision", "precision: unknown key; did you mean 'precisions'?"),
        (
            'onnxruntime-cpu"\nprecisions = ["fp32"',
            'onnxruntime-cuda"\nprecisions = ["fp32", "int8"',
            "has no int8 convolutions",
        ),
        (
            "precisions",
            "threads = 0\nprecisions",
            "threads: input should be greater than or equal to 1 (allowed: >= 1 and <= 256), found 0",
        ),
        ("precisions", "thread = 1\nprecisions", "thread: unknown key; did you mean 'threads'?"),
        (
            "precisions",
            "compute_capabilities = [8.6]\nprecisions",
            "compute_capabilities.0: input should be a valid str",
        ),
        (
            "precisions",
            'compute_capabilities = ["8.6"]\nprecisions',
            "compute_capabilities are of the runtime tensorrt-rtx",
        ),
        ("precisions", "batch = [1, 4, 2]\nprecisions", "batch must be 1, the best and the most frames at once"),
        ("precisions", "batch = [4, 4, 4]\nprecisions", "batch must be 1, the best and the most frames at once"),
        ("precisions", "batch = [1, 4]\nprecisions", "batch.2: missing"),
        ("precisions", 'fallback = "onnxruntime-cpu"\nprecisions', "fallback must be another runtime"),
        ("precisions", 'fallback = "tensorrt"\nprecisions', "fallback: input should be 'onnxruntime-cpu'"),
        (
            "precisions",
            "version_compatible = true\nprecisions",
            "version_compatible and hardware are of the runtime",
        ),
        ("precisions", 'hardware = "any"\nprecisions', "hardware: input should be 'this-gpu', 'same-capability'"),
    ],
)
def test_a_wrong_device_profile_is_refused(old: str, new: str, said: str, tmp_path: Path) -> None:
    written(tmp_path / "profiles" / "devices", DEVICE.replace(old, new), "bench.toml")
    with pytest.raises(UsageError) as caught:
        load_device("bench")
    assert said in str(caught.value)


def test_a_device_says_what_its_engine_is_built_for(tmp_path: Path) -> None:
    text = DEVICE.replace("onnxruntime-cpu", "tensorrt")
    more = 'fallback = "onnxruntime-cuda"\nbatch = [1, 1, 1]\nhardware = "ampere-plus"\nversion_compatible = true\n'
    written(tmp_path / "profiles" / "devices", text + more, "bench.toml")
    device = load_device("bench")
    assert device.fallback == "onnxruntime-cuda"
    assert device.engine == EngineOptions(
        runtime="tensorrt", batch=(1, 1, 1), hardware="ampere-plus", version_compatible=True
    )
    assert load_device("rtx-station").engine == EngineOptions(runtime="tensorrt-rtx", batch=(1, 1, 16))
    with pytest.raises(UsageError, match=r"onnxruntime-cpu runs the ONNX model.*export\.also_for"):
        _ = load_device("cpu-x86").engine


def test_an_engine_is_asked_for_a_device_that_runs_engines() -> None:
    assert engine_device("rtx-station").name == "rtx-station"
    with pytest.raises(UsageError, match=r"runs the ONNX model.*take the device out of export\.also_for"):
        engine_device("cpu-x86")
