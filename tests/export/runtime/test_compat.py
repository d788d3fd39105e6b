from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from export.runtime import compat
from export.runtime.errors import EnvironmentLacks
from export.runtime.manifest import DeviceContract

HERE = compat.Installed(modules=frozenset({"onnxruntime"}), packages={"onnxruntime": "1.20"})


def on(runtime: str) -> DeviceContract:
    return DeviceContract(name="bench", runtime=runtime, precision="fp32")  # type: ignore[arg-type]


def test_a_machine_with_the_runtime_lacks_nothing(tiny: SimpleNamespace) -> None:
    assert compat.problems(tiny.draft(), HERE) == []
    assert compat.problems(tiny.draft(device=on("onnxruntime-cuda")), HERE) == []


@pytest.mark.parametrize(
    ("runtime", "package", "modules"),
    [
        ("onnxruntime-cpu", "onnxruntime", 1),
        ("onnxruntime-cuda", "onnxruntime-gpu", 1),
        ("tensorrt", "edge-model-factory[trt]", 2),
        ("tensorrt-rtx", "edge-model-factory[rtx]", 3),
    ],
)
def test_a_missing_runtime_is_named_with_its_package(
    tiny: SimpleNamespace, runtime: str, package: str, modules: int
) -> None:
    bare = compat.Installed(modules=frozenset(), packages={})
    found = compat.problems(tiny.draft(device=on(runtime)), bare)
    assert {problem.fix for problem in found} == {f"Install it: pip install '{package}'"}
    assert len(found) == modules
    assert compat.problems(tiny.draft(), bare, runtime) == found  # type: ignore[arg-type]
    everything = frozenset(problem.found.removeprefix("no module ") for problem in found)
    assert compat.problems(tiny.draft(device=on(runtime)), compat.Installed(everything, {})) == []


def test_what_is_installed_is_found_without_importing_it() -> None:
    here = compat.installed()
    assert "onnxruntime" in here.modules
    assert len(here.packages) == 1


def test_every_problem_is_listed(tiny: SimpleNamespace) -> None:
    asked = tiny.draft(device=on("tensorrt"))
    asked = replace(asked, input=replace(asked.input, resize="crop-v0"))
    both = compat.Installed(frozenset({"cuda.bindings"}), {"onnxruntime": "1.20", "onnxruntime-gpu": "1.27"})
    assert [problem.found for problem in compat.problems(asked, both)] == [
        "crop-v0",
        "no module tensorrt",
        "onnxruntime 1.20 and onnxruntime-gpu 1.27",
    ]


def test_two_packages_in_one_folder_are_seen_and_refused(
    tiny: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu"):
        folder = tmp_path / f"{name}-9.9.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert compat.installed().packages == {"onnxruntime": "9.9", "onnxruntime-gpu": "9.9"}
    with pytest.raises(
        EnvironmentLacks, match=r"pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime$"
    ) as error:
        compat.require(tiny.draft(input=replace(tiny.draft().input, resize="crop-v0")))
    assert "crop-v0" in str(error.value)
    assert error.value.exit_code == 3
