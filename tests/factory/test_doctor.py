"""What the doctor says of the two packages of ONNX Runtime, which fill one folder."""

import json
from pathlib import Path

import pytest

from tests.tiny import factory


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, searched first."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def put(folder: Path, name: str) -> None:
    info = folder / f"{name.replace('-', '_')}-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")


def test_both_packages_of_onnxruntime_are_fatal_and_come_with_the_fix(packages: Path) -> None:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        put(packages, name)
    result = factory("doctor", "--json")
    assert result.exit_code == 3
    (found,) = (f for f in json.loads(result.stdout) if f["subject"] == "onnxruntime")
    assert (found["ok"], found["fatal"], found["found"]) == (False, True, "both onnxruntime and onnxruntime-gpu")
    assert found["fix"].startswith("pip uninstall onnxruntime onnxruntime-gpu, then ")


def test_one_package_of_onnxruntime_is_told_with_its_providers() -> None:
    result = factory("doctor", "--json")
    assert result.exit_code == 0, result.output
    (found,) = (f for f in json.loads(result.stdout) if f["subject"] == "onnxruntime")
    assert found["ok"] and "CPU" in found["found"]
