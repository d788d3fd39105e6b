"""What a station says where it cannot run a bundle: by every command the same one error, whole, and its exit code.

The GPUs, the versions of TensorRT and CUDA are the recorded ones (`tests.export.api`), all else is real.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from export.runtime import bench, fingerprint
from export.runtime.cli import main
from export.runtime.manifest import DeviceContract
from export.runtime.timing import Effort
from tests.export.api.fake import MAGIC, Cuda, installed

Said = Callable[..., tuple[int, str, str]]
BUILT = "station rebuild-engine BUNDLE --runtime tensorrt"


@pytest.fixture
def station(
    trust: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Said:
    monkeypatch.setenv("STATION_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(bench, "EFFORT", Effort(rounds=1, seconds=0.0, runs=3, warm_up_s=0.0))

    def run(command: str, folder: Path, *options: str) -> tuple[int, str, str]:
        pictures = [str(folder / "golden")] if command == "inspect" else []
        capsys.readouterr()
        code = main([command, str(folder), *pictures, "--trust", str(trust[0]), *options])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def with_engine(make_bundle: Callable[..., Path], tiny: SimpleNamespace) -> Path:
    """A bundle with an engine of TensorRT 10.16.1.11 for compute capability 8.6 and 1 to 16 frames."""
    device = DeviceContract(name="orin", runtime="tensorrt", precision="fp32")
    engine = tiny.engine(path="engines/e.plan", model_sha256=hashlib.sha256(tiny.network()).hexdigest())
    extra = {engine.path: ("engine", MAGIC + tiny.network())}
    return make_bundle(asked=tiny.draft(device=device, engines=(engine,)), extra=extra)


def on(patch: pytest.MonkeyPatch, record: str = "tensorrt 10.16", capability: tuple[int, int] = (8, 6)) -> Any:
    """A station with that TensorRT and a GPU of that compute capability."""
    machine = installed(patch, record, Cuda(capability=capability))
    machine.profile = [(number, 8, 8, 1) for number in (1, 1, 16)]
    patch.setattr(fingerprint, "_runtime_version", lambda runtime: record)
    return machine


@pytest.mark.parametrize("command", ["inspect", "bench"])
@pytest.mark.parametrize(
    ("record", "capability", "said"),
    [
        (
            "tensorrt 10.16",
            (8, 9),
            "for another GPU: expected compute capability 8.6, found 8.9 (NVIDIA RTX A2000). ",
        ),
        (
            "tensorrt 11.4",
            (8, 6),
            "by another version of TensorRT: expected 10.16.1.11, found 11.4.0.106. Install that version. Or: ",
        ),
    ],
)
def test_another_gpu_and_another_version(
    command: str,
    record: str,
    capability: tuple[int, int],
    said: str,
    station: Said,
    with_engine: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = on(monkeypatch, record, capability)
    told = f"error: the engine was built {said}Build an engine for this station: {BUILT}\n"
    assert station(command, with_engine) == (3, "", told)
    assert "Runtime.deserialize_cuda_engine" not in machine.library.names()


@pytest.mark.parametrize("record", ["tensorrt 10.16", "tensorrt 11.4"])
def test_the_fix_for_another_gpu_or_version_is_one(
    record: str, station: Said, with_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, record, (8, 9))
    assert station("inspect", with_engine)[0] == 3
    assert station("rebuild-engine", with_engine, "--runtime", "tensorrt")[0] == 0
    code, out, _ = station("inspect", with_engine)
    assert code == 0
    assert len(out.splitlines()) == 3


@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_a_missing_engine_and_its_fix(
    command: str, station: Said, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a bundle for another runtime: the command that is named must not fall back on the bundle's own."""
    on(monkeypatch)
    assert station(command, bundle, "--runtime", "tensorrt") == (
        3,
        "",
        "error: the bundle holds no TensorRT engine: expected an engine for tensorrt, found no engine at all. "
        f"Build an engine for this station: {BUILT}\n",
    )
    assert station("rebuild-engine", bundle, "--runtime", "tensorrt")[0] == 0
    assert station("inspect", bundle, "--runtime", "tensorrt")[0] == 0


@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_a_missing_provider(command: str, station: Said, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert station(command, bundle, "--runtime", "onnxruntime-cuda") == (
        3,
        "",
        "error: this station cannot run the model: expected CUDAExecutionProvider, found only CPUExecutionProvider. "
        "pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu\n",
    )


def test_a_batch_outside_the_profile(station: Said, with_engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch)
    said = "error: the network does not take so many frames at once: expected a batch of 1 to 16, found a batch of 17. "
    fix = "Send other batches, or set `batch` in the device profile and build the engine again\n"
    assert station("bench", with_engine, "--batch", "17", "--rhythm-ms", "0") == (2, "", said + fix)
    assert station("bench", with_engine, "--batch", "16", "--rhythm-ms", "0")[0] == 0


def test_a_batch_that_a_model_of_one_frame_does_not_take(
    station: Said, make_bundle: Callable[..., Path], tiny: SimpleNamespace
) -> None:
    folder = make_bundle(model=tiny.network(batch=1))
    code, out, told = station("bench", folder, "--batch", "2", "--rhythm-ms", "0")
    said = "error: the network does not take so many frames at once: expected a batch of 1, found a batch of 2. "
    fix = "Send one frame at a time, or build the model for batches of any size"
    assert (code, out, told.splitlines()[-1]) == (2, "", said + fix)


@pytest.mark.parametrize("command", ["verify", "inspect", "bench", "rebuild-engine"])
def test_changed_bytes_of_an_engine(
    command: str, station: Said, with_engine: Path, tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = on(monkeypatch)
    plan = MAGIC + tiny.network()
    spoiled = plan[:-1] + b"x"
    (with_engine / "engines" / "e.plan").write_bytes(spoiled)
    before, after = (hashlib.sha256(data).hexdigest() for data in (plan, spoiled))
    assert station(command, with_engine) == (
        1,
        "",
        f"error: engines/e.plan was changed after signing: expected SHA-256 {before}, found {after}. "
        "Copy the bundle again from where it was built\n",
    )
    assert machine.library.said == []


@pytest.mark.parametrize(("command", "runtime"), [("inspect", "onnxruntime-cpu"), ("bench", "onnxruntime-cuda")])
def test_both_packages_of_onnxruntime(
    command: str, runtime: str, station: Said, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        folder = tmp_path / "packages" / f"{name.replace('-', '_')}-9.9.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    needed = {"onnxruntime-cpu": "onnxruntime", "onnxruntime-cuda": "onnxruntime-gpu"}[runtime]
    assert station(command, bundle, "--runtime", runtime) == (
        3,
        "",
        "error: this station cannot run it: expected one onnxruntime package, "
        "found onnxruntime 9.9 and onnxruntime-gpu 9.9. "
        f"pip uninstall onnxruntime onnxruntime-gpu, then pip install {needed}\n",
    )
