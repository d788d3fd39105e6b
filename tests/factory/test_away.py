"""A line for a station whose runtime is not on this machine; what a GPU would measure is made up, all else is real."""

import json
from pathlib import Path

import pytest

from export.runtime.errors import EnvironmentLacks
from export.runtime.keys import key_id, load_private, load_trusted, new_key
from export.runtime.kit import Measurements, Result, measurements_bytes, read_kit
from export.runtime.manifest import Signer, parse_manifest
from export.runtime.station import Station
from export.runtime.timing import Summary
from factory.cost import design, table
from factory.groundwork import Groundwork
from factory.profiles import load_line
from factory.profiles.line import ExportSettings
from tests.conftest import RTX
from tests.tiny import factory, make_images, make_line


def made_up(model: bytes, provider: str) -> Summary:
    """The figures of a machine on which a network takes as long as its file is large."""
    ms = 0.02 + len(model) / 5e6
    return Summary(
        p50_ms=ms, p90_ms=ms, p95_ms=ms, p99_ms=ms, min_ms=ms, max_ms=ms, mean_ms=ms, cv=0.0, cv_turns=0.0, noisy=False,
        runs=50, batch=1, frames_per_s=1e3 / ms, provider=provider,
    )  # fmt: skip


def carry(device: str, number: int, provider: str) -> None:
    """Take a kit to a station that is not there, and its figures home."""
    kit, home = Path(f"kit{number}"), Path(f"{number}.measured")
    assert factory("measure", device, "--kit", kit).exit_code == 0
    read = read_kit(kit, load_trusted([Path("work.key.pub")]))
    private = load_private(Path("gpu.key"))
    figures = Measurements(
        created=read.manifest.created,
        kit=read.id,
        device=read.manifest.device,
        identity={"processor": "made up"},
        circumstances={"time": read.manifest.created},
        results=tuple(
            Result(sha256=n.sha256, frame=n.frame, latency=made_up(read.contents[n.sha256], provider))
            for n in read.manifest.networks
        ),
        signer=Signer(key_id=key_id(private.public_key()), name="station"),
    )
    home.write_bytes(measurements_bytes(figures, private))
    result = factory("measure", device, "--read", home, "--trust", "gpu.key.pub")
    assert result.exit_code == 0, result.output


def test_engines_that_cannot_be_built_here_are_left_to_the_station_unless_they_are_asked_for(tmp_path: Path) -> None:
    profile = make_line(tmp_path, make_images(tmp_path / "images", number=2))
    line, root = load_line(str(profile))
    said: list[str] = []
    away = line.model_copy(update={"budget": line.budget.model_copy(update={"device": "gpu-tensorrt"})})
    assert Groundwork(away, root, tmp_path, say=said.append).engines == ()
    assert "no engine for gpu-tensorrt is built here" in said[0] and "station rebuild-engine" in said[1]
    asked = line.model_copy(update={"export": ExportSettings(also_for=("gpu-tensorrt",))})
    with pytest.raises(EnvironmentLacks):
        _ = Groundwork(asked, root, tmp_path).engines


@pytest.mark.parametrize("device", ["gpu-onnxruntime", "rtx-station"])
def test_a_line_for_a_gpu_that_is_elsewhere_goes_all_the_way(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "MEASURED", 10)
    monkeypatch.setattr(design, "DRAWS", 200)
    monkeypatch.chdir(tmp_path)
    for name in ("work.key", "gpu.key"):
        new_key(Path(name))
    monkeypatch.setenv("FACTORY_KEY", "work.key")
    profile = make_line(tmp_path, make_images(tmp_path / "images"), epochs=2)
    profile.write_text(profile.read_text().replace("cpu-x86", device))
    provider = {"gpu-onnxruntime": "CUDAExecutionProvider"}.get(device, device)
    for walks in range(9):
        result = factory("run", profile, "--json")
        if result.exit_code != 3:
            break
        carry(device, walks, provider)
    assert result.exit_code == 0, result.output
    assert walks == 4
    document = json.loads(result.stdout)
    bundle = Path(document["bundle"])
    manifest = parse_manifest((bundle / "manifest.json").read_bytes())
    assert manifest.device.name == device
    assert manifest.model.precision == document["precision"] != "fp32"  # smaller, so faster by the figures above
    own = [engine.precision for engine in manifest.engines]
    assert own == ([document["precision"]] if device == "rtx-station" and RTX else [])
    with pytest.raises(EnvironmentLacks):  # no GPU runs it here, and nothing else steps in
        Station.load(bundle, [Path("work.key.pub")])
