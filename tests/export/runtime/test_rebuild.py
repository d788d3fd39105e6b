"""`station rebuild-engine`, and the signed record by which a station trusts its own engine and no other."""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.runtime import cuda, overlay
from export.runtime.cli import main
from export.runtime.errors import BundleRefused, EnvironmentLacks, UsageError
from export.runtime.keys import load_trusted
from export.runtime.manifest import DecisionRule, DeviceContract, Golden, Model, Variant, canonical_bytes
from export.runtime.rebuild import rebuild_engine
from export.runtime.station import Station
from export.runtime.station_key import station_key
from export.runtime.tensorrt_library import MODULES
from tests.export.api.fake import MAGIC, VERSIONS, Cuda, Machine, installed

Make = Callable[..., Path]
INSTALLED = all(importlib.util.find_spec(name) for name in (*MODULES["tensorrt-rtx"], "cuda"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def folder(make_bundle: Make, tiny: SimpleNamespace) -> Path:
    """A bundle for a station with TensorRT, which holds no engine: none could be built where it was packed."""
    device = DeviceContract(name="orin", runtime="tensorrt", precision="fp32", batch=(1, 1, 4))
    return make_bundle(asked=tiny.draft(device=device))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return installed(monkeypatch, "tensorrt 11.4")


@pytest.fixture
def rebuilt(machine: Machine, folder: Path, trust: list[Path], store: Path) -> Path:
    return rebuild_engine(folder, load_trusted(trust), store).record


@pytest.mark.parametrize("record", VERSIONS)
def test_an_engine_is_built_proven_recorded_and_then_run(
    record: str, folder: Path, trust: list[Path], store: Path, tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = installed(monkeypatch, record)
    runtime: Any = record.partition(" ")[0]
    built = rebuild_engine(folder, load_trusted(trust), store, runtime)
    assert built.version == machine.library.__version__
    assert machine.profile[2] == (4, 8, 8, 1)  # the batch of the bundle's device
    station = Station.load(folder, trust, runtime=runtime, store=store)
    assert station.provider.endswith(machine.library.__version__)
    assert [station.inspect(tiny.picture(grey)).verdict for grey in (40, 220)] == ["pass", "reject"]
    assert [v.verdict for v in station.inspect_batch([tiny.picture(g) for g in (40, 220, 41)])].count("pass") == 2
    with pytest.raises(UsageError, match="a batch of 1 to 4, found a batch of 5"):
        station.inspect_batch([tiny.picture(40)] * 5)


def test_without_the_store_the_bundle_has_no_engine(rebuilt: Path, folder: Path, trust: list[Path]) -> None:
    with pytest.raises(EnvironmentLacks, match="the bundle holds no TensorRT engine"):
        Station.load(folder, trust)


def test_building_again_replaces_the_engine(rebuilt: Path, folder: Path, trust: list[Path], store: Path) -> None:
    before = {path.name for path in rebuilt.parent.iterdir()}
    rebuild_engine(folder, load_trusted(trust), store)
    assert {path.name for path in rebuilt.parent.iterdir()} == before
    assert len(before) == 2
    assert len(list((store / "timings").glob("*.timings"))) == 1


def test_an_engine_that_decides_otherwise_is_not_recorded(
    machine: Machine, folder: Path, trust: list[Path], store: Path, tiny: SimpleNamespace
) -> None:
    spoiled = tiny.network(bias=(0.0, 2.0, -0.7))
    machine.library.behave["Runtime.deserialize_cuda_engine"] = lambda *_: machine.library.make(
        "ICudaEngine", model=spoiled
    )
    with pytest.raises(BundleRefused, match=r"the golden frame .* is off by"):
        rebuild_engine(folder, load_trusted(trust), store)
    assert not (store / "engines").exists()


def test_an_engine_that_the_gpu_cannot_run_is_not_recorded(
    machine: Machine, folder: Path, trust: list[Path], store: Path
) -> None:
    machine.library.behave["Runtime.deserialize_cuda_engine"] = lambda *_: None
    with pytest.raises(EnvironmentLacks, match="was built, but it cannot be run here on the golden pictures, so it is"):
        rebuild_engine(folder, load_trusted(trust), store)
    assert not (store / "engines").exists()


def test_a_changed_bundle_is_refused_before_anything_is_built(
    machine: Machine, folder: Path, trust: list[Path], store: Path
) -> None:
    (folder / "golden" / "000.png").write_bytes(b"x")
    with pytest.raises(BundleRefused, match="changed after signing"):
        rebuild_engine(folder, load_trusted(trust), store)
    assert machine.library.said == []


def test_a_runtime_without_engines_is_refused(machine: Machine, bundle: Path, trust: list[Path], store: Path) -> None:
    with pytest.raises(UsageError, match=r"onnxruntime-cpu runs the ONNX model.*--runtime"):
        rebuild_engine(bundle, load_trusted(trust), store)


# The record.


def edited(path: Path, store: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change a record and sign it anew with the station's own key, as a careless hand might."""
    document = json.loads(path.read_bytes()[64:])
    edit(document)
    data = canonical_bytes(document)
    path.write_bytes(station_key(store).sign(overlay.DOMAIN + data) + data)


def spoil_engine(path: Path, store: Path) -> None:
    (engine,) = path.parent.glob("*.engine")
    data = bytearray(engine.read_bytes())
    data[-1] ^= 1
    engine.write_bytes(bytes(data))


def spoil_record(path: Path, store: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def other_key(path: Path, store: Path) -> None:
    for half in store.glob("station.key*"):
        half.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_engine, "was changed after this station signed it: expected SHA-256"),
        (spoil_record, "was changed, or this station's key did not sign it"),
        (other_key, "was changed, or this station's key did not sign it"),
        (lambda path, store: path.write_bytes(b""), "was changed, or this station's key did not sign it"),
        (lambda path, store: next(path.parent.glob("*.engine")).unlink(), "this station's own engine is gone"),
        (lambda p, s: edited(p, s, lambda d: d.update(bundle_sha256="0" * 64)), "belongs to another bundle"),
        (lambda p, s: edited(p, s, lambda d: d["engine"].update(runtime="tensorrt-rtx")), "belongs to another bundle"),
        (lambda p, s: edited(p, s, lambda d: d.update(more=1)), "has unknown 'more'"),
    ],
)
def test_a_record_or_an_engine_that_was_touched_is_refused_before_it_is_used(
    machine: Machine,
    rebuilt: Path,
    folder: Path,
    trust: list[Path],
    store: Path,
    spoil: Callable[[Path, Path], object],
    said: str,
) -> None:
    spoil(rebuilt, store)
    machine.library.said.clear()
    with pytest.raises(BundleRefused, match=said):
        Station.load(folder, trust, store=store)
    assert machine.library.said == []


def test_the_engine_of_another_bundle_is_refused(
    rebuilt: Path, store: Path, trust: list[Path], folder: Path, resign: Any
) -> None:
    old = overlay.read(store, SimpleNamespace(manifest_bytes=(folder / "manifest.json").read_bytes()), "tensorrt")  # type: ignore[arg-type]
    assert old is not None
    resign(folder, lambda manifest: manifest.update(line="cells-4"))
    with pytest.raises(EnvironmentLacks, match="the bundle holds no TensorRT engine"):
        Station.load(folder, trust, store=store)
    from export.runtime.manifest import bundle_id

    shutil.copytree(rebuilt.parent, store / "engines" / bundle_id((folder / "manifest.json").read_bytes()))
    with pytest.raises(BundleRefused, match=r"belongs to another bundle.*station rebuild-engine"):
        Station.load(folder, trust, store=store)


def test_another_gpu_is_refused_with_the_fix(
    rebuilt: Path, folder: Path, trust: list[Path], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Cuda()
    other.name = b"NVIDIA RTX A4000"
    machine = installed(monkeypatch, "tensorrt 11.4", other)
    with pytest.raises(
        EnvironmentLacks, match=r"proven on another GPU: expected .*A2000.*found NVIDIA RTX A4000.*station rebuild-eng"
    ):
        Station.load(folder, trust, store=store)
    assert machine.library.said == []


def test_another_version_of_tensorrt_is_refused_with_the_fix(
    rebuilt: Path, folder: Path, trust: list[Path], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "tensorrt 10.16")
    with pytest.raises(
        EnvironmentLacks, match=r"expected 11\.4\.0\.106, found 10\.16\.1\.11.*station rebuild-engine BUNDLE"
    ):
        Station.load(folder, trust, store=store)


def test_another_gpu_lets_the_fallback_step_in_a_changed_engine_does_not(
    machine: Machine,
    make_bundle: Make,
    tiny: SimpleNamespace,
    trust: list[Path],
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = DeviceContract(name="orin", runtime="tensorrt", precision="fp32")
    folder = make_bundle(asked=tiny.draft(device=replace(device, fallback="onnxruntime-cpu")))
    record = rebuild_engine(folder, load_trusted(trust), store).record
    installed(monkeypatch, "tensorrt 11.4", Cuda(capability=(8, 9)))
    assert Station.load(folder, trust, store=store).provider == "CPUExecutionProvider"
    assert "FALLING BACK from tensorrt to onnxruntime-cpu" in caplog.text
    assert "proven on another GPU" in caplog.text
    spoil_engine(record, store)
    with pytest.raises(BundleRefused, match="was changed after this station signed it"):
        Station.load(folder, trust, store=store)


# The command.


def test_the_command_says_what_it_built_and_what_comes_next(
    machine: Machine,
    folder: Path,
    trust: list[Path],
    store: Path,
    tmp_path: Path,
    tiny: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(folder), "--trust", str(trust[0]), "--store", str(store)]
    assert main(["rebuild-engine", *arguments]) == 0
    out, err = capsys.readouterr()
    assert "by version 11.4.0.106" in out
    assert "every golden picture came out again; recorded as " in out
    assert err == f"next: station inspect {folder} PICTURES\n"
    (tmp_path / "part.png").write_bytes(tiny.picture(220))
    assert main(["inspect", str(folder), str(tmp_path / "part.png"), *arguments[1:]]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "reject"


@pytest.mark.skipif(not INSTALLED, reason="the extra rtx is not installed")
def test_the_real_library_builds_here_and_records_nothing_without_a_gpu(
    bundle: Path, trust: list[Path], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        cuda.gpu()
    except EnvironmentLacks:
        pass
    else:
        pytest.skip("this machine has a GPU")
    arguments = ["--runtime", "tensorrt-rtx", "--trust", str(trust[0]), "--store", str(store)]
    assert main(["rebuild-engine", str(bundle), *arguments]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "bytes was built, but it cannot be run here on the golden pictures, so it is not recorded" in err
    assert "no NVIDIA GPU can be used here" in err
    assert "Check nvidia-smi" in err
    assert not store.exists() or list(store.iterdir()) == []


@pytest.fixture
def varied(make_bundle: Callable[..., Path], tiny: SimpleNamespace) -> tuple[Path, Any]:
    """A bundle whose engine is built from another model than the one its device runs, which decides otherwise."""
    model = tiny.network(bias=(0.5, 0.0, -0.7))
    decision = DecisionRule(rule="threshold", threshold=0.6)
    variant = Variant(
        model=Model(path="engines/model.onnx", precision="fp32", opset=18),
        decision=decision,
        golden=Golden(path="golden/model.json", tolerance=1e-4),
    )
    engine = tiny.engine(model_sha256=hashlib.sha256(model).hexdigest(), precision="fp32")
    asked = tiny.draft(engines=(engine,), variants=(variant,))
    scores = tiny.scored(model, tiny.draft(decision=decision))
    extra = {
        engine.path: ("engine", MAGIC + model),
        variant.model.path: ("model", model),
        variant.golden.path: ("golden-scores", scores),
    }
    return make_bundle(asked=asked, extra=extra), model


def test_an_engine_decides_by_the_threshold_of_the_model_it_was_built_from(
    varied: tuple[Path, Any], trust: list[Path], tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "tensorrt 10.16").profile = [(number, 8, 8, 1) for number in (1, 1, 16)]
    folder, _ = varied
    own, engine = (Station.load(folder, trust, runtime=runtime) for runtime in ("onnxruntime-cpu", "tensorrt"))
    verdicts = [station.inspect(tiny.picture(125)) for station in (own, engine)]
    assert [verdict.threshold for verdict in verdicts] == [0.4, 0.6]
    assert [verdict.verdict for verdict in verdicts] == ["reject", "pass"]
    assert engine.variant.model.path == "engines/model.onnx"


def test_the_station_builds_from_the_model_of_the_bundles_own_engine(
    machine: Machine, varied: tuple[Path, Any], trust: list[Path], store: Path
) -> None:
    folder, model = varied
    rebuild_engine(folder, load_trusted(trust), store, "tensorrt")
    station = Station.load(folder, trust, runtime="tensorrt", store=store)
    assert station.provider.endswith(machine.library.__version__)
    assert station.variant.decision.threshold == 0.6
    assert any(model in path.read_bytes() for path in (store / "engines").rglob("*") if path.is_file())
