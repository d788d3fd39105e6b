"""Kits and the files that come back: a real station, this machine, measures; every refusal is one clear message."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.runtime import fingerprint, measuring
from export.runtime.cli import main
from export.runtime.errors import BundleRefused, EnvironmentLacks, FactoryError
from export.runtime.keys import key_id, load_private, load_trusted, new_key
from export.runtime.kit import (
    KIT_DOMAIN,
    MEASUREMENTS_DOMAIN,
    Device,
    Frame,
    KitManifest,
    Network,
    read_kit,
    read_measurements,
    sha256,
)  # fmt: skip
from export.runtime.manifest import Signer
from export.runtime.station_key import station_key
from export.runtime.strictjson import canonical_bytes
from export.runtime.timing import Effort
from export.runtime.trust import sign, sign_bundle
from tests.export.api.fake import installed

FRAME = Frame(height=8, width=8, channels=1, classes=3)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for a moment only, with a store of the test's own."""
    monkeypatch.setattr(measuring, "CARRIED", Effort(rounds=2, seconds=0.0, runs=3, warm_up_s=0.0))
    monkeypatch.setenv("STATION_STORE", str(tmp_path / "store"))


@pytest.fixture
def write_kit(tmp_path: Path, key: Path, tiny: SimpleNamespace) -> Callable[..., Path]:
    """Write a kit of two networks, its manifest changed as asked before it is signed."""

    def write(edit: Callable[[dict[str, Any]], object] = lambda _: None, **device: Any) -> Path:
        folder, private = tmp_path / "kit", load_private(key)
        (folder / "networks").mkdir(parents=True)
        models = [tiny.network(bias=bias) for bias in ((0.0, -0.5, -0.7), (0.1, 0.0, 0.0))]
        for index, model in enumerate(models):
            (folder / f"networks/{index}.onnx").write_bytes(model)
        asked: dict[str, Any] = {"name": "hall-7", "runtime": "onnxruntime-cpu", "threads": 1}
        manifest = KitManifest(
            created="2025-01-31T12:00:00Z",
            device=Device(**(asked | device)),
            input_name="image",
            output_name="logits",
            networks=tuple(
                Network(path=f"networks/{i}.onnx", size=len(m), sha256=sha256(m), frame=FRAME)
                for i, m in enumerate(models)
            ),
            signer=Signer(key_id=key_id(private.public_key()), name="W1"),
        )
        document = json.loads(canonical_bytes(manifest))
        edit(document)
        data = canonical_bytes(document)
        (folder / "manifest.json").write_bytes(data)
        (folder / "manifest.sig").write_bytes(sign(data, private, KIT_DOMAIN))
        return folder

    return write


@pytest.fixture
def station(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


Said = Callable[..., tuple[int, str, str]]


def test_a_station_measures_a_kit_and_signs_what_it_found(
    write_kit: Callable[..., Path], trust: list[Path], station: Said, tmp_path: Path, tiny: SimpleNamespace
) -> None:
    kit, out, store = write_kit(), tmp_path / "figures", tmp_path / "store"
    code, said, progress = station("measure", kit, "--out", out, "--trust", trust[0])
    assert code == 0, progress
    assert "made the station's key" in progress and "measured 4 of 4 turns" in progress
    assert f"factory measure hall-7 --read {out} --trust station.key.pub" in progress.splitlines()[-1]
    assert said.startswith("2 networks measured on ")
    assert (store / "station.key").stat().st_mode & 0o777 == 0o600
    found = read_measurements(out, load_trusted([store / "station.key.pub"]))
    assert found.kit == read_kit(kit, load_trusted(trust)).id
    assert found.device == Device(name="hall-7", runtime="onnxruntime-cpu", threads=1)
    assert found.identity == fingerprint.fingerprint("onnxruntime-cpu").identity
    assert [result.sha256 for result in found.results] == [
        sha256(tiny.network(bias=bias)) for bias in ((0.0, -0.5, -0.7), (0.1, 0.0, 0.0))
    ]
    for result in found.results:
        assert result.frame == FRAME
        assert (result.latency.provider, result.latency.runs) == ("CPUExecutionProvider", 6)
        assert 0 < result.latency.min_ms <= result.latency.p50_ms <= result.latency.max_ms
    key = (store / "station.key").read_bytes()
    code, _, progress = station("measure", kit, "--out", out, "--trust", trust[0])  # the key is kept
    assert (code, "made the station's key" in progress) == (0, False)
    assert (store / "station.key").read_bytes() == key


def test_a_station_needs_neither_torch_nor_onnx_to_measure(
    write_kit: Callable[..., Path], trust: list[Path], tmp_path: Path, python: Any
) -> None:
    code = (
        "import sys; sys.modules.update({name: None for name in ('torch', 'onnx', 'click', 'pydantic', 'factory')});"
        "from export.runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = python(code, "measure", write_kit(), "--out", tmp_path / "figures", "--trust", trust[0])
    assert done.returncode == 0, done
    assert (tmp_path / "figures").is_file()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda kit: flip(kit / "networks/1.onnx"), "networks/1.onnx was changed after signing"),
    (lambda kit: flip(kit / "manifest.json"), "the kit or its signature was changed after signing"),
    (lambda kit: flip(kit / "manifest.sig"), "the kit or its signature was changed after signing"),
    (lambda kit: os.truncate(kit / "networks/0.onnx", 50), "networks/0.onnx was changed after signing"),
    (lambda kit: os.truncate(kit / "manifest.sig", 50), "the signature of the kit is cut short"),
    (lambda kit: (kit / "networks/0.onnx").unlink(), "the kit lacks networks/0.onnx"),
    (lambda kit: (kit / "more.onnx").write_bytes(b""), "more.onnx is a file the manifest does not list"),
    (lambda kit: (kit / "manifest.sig").unlink(), "the kit is not signed"),
    (shutil.rmtree, "no kit at"),
]


@pytest.mark.parametrize(("breaks", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_kit_that_is_not_what_was_signed_is_refused(
    breaks: Callable[[Path], object], message: str, write_kit: Callable[..., Path], trust: list[Path],
    station: Said, tmp_path: Path,
) -> None:  # fmt: skip
    kit = write_kit()
    breaks(kit)
    code, said, told = station("measure", kit, "--out", tmp_path / "figures", "--trust", trust[0])
    assert (code, said) == (1, "")
    assert told.startswith("error: ") and message in told and len(told.splitlines()) == 1
    assert not (tmp_path / "figures").exists()


def test_a_kit_of_a_key_not_trusted_is_refused_before_it_is_parsed(
    write_kit: Callable[..., Path], station: Said, tmp_path: Path
) -> None:
    kit = write_kit()
    new_key(tmp_path / "other")
    (kit / "manifest.json").write_bytes(b"{not json")
    code, _, told = station("measure", kit, "--out", tmp_path / "figures", "--trust", tmp_path / "other.pub")
    assert code == 1
    assert "the kit is signed by a key not trusted here" in told and "trust its .pub file" in told


def test_a_bundle_signed_by_the_same_key_is_no_kit(
    write_kit: Callable[..., Path], trust: list[Path], key: Path
) -> None:
    kit = write_kit()
    sign_bundle(kit, load_private(key))
    with pytest.raises(BundleRefused, match="was changed after signing"):
        read_kit(kit, load_trusted(trust))


EDITS: list[tuple[Callable[[dict[str, Any]], object], type[FactoryError], str]] = [
    (
        lambda kit: kit.update(schema=2),
        EnvironmentLacks,
        r"expected schema 1, found schema 2\. Bring",
    ),
    (lambda kit: kit.update(kind="bundle"), BundleRefused, "kind is not as it must be"),
    (lambda kit: kit.update(more=1), BundleRefused, "has unknown 'more'"),
    (lambda kit: kit["device"].pop("threads"), BundleRefused, "lacks 'threads'"),
    (lambda kit: kit.update(networks=[]), BundleRefused, "there are no networks"),
    (lambda kit: kit["networks"].append(kit["networks"][0] | {"path": "b"}), BundleRefused, "stands in it twice"),
    (lambda kit: kit["networks"][0].update(path="../x.onnx"), BundleRefused, "leaves the bundle"),
    (lambda kit: kit["networks"][0]["frame"].update(height=0), BundleRefused, "too small"),
    (lambda kit: kit["signer"].update(key_id="0" * 16), BundleRefused, "names another signer"),
]


@pytest.mark.parametrize(("edit", "error", "message"), EDITS, ids=[message for *_, message in EDITS])
def test_a_signed_kit_that_cannot_be_meant_is_refused(
    edit: Callable[[dict[str, Any]], object], error: type[FactoryError], message: str,
    write_kit: Callable[..., Path], trust: list[Path],
) -> None:  # fmt: skip
    with pytest.raises(error, match=message):
        read_kit(write_kit(edit), load_trusted(trust))


def test_networks_of_another_size_than_the_kit_says_are_refused(
    write_kit: Callable[..., Path], trust: list[Path], station: Said, tmp_path: Path
) -> None:
    kit = write_kit(lambda kit: [network["frame"].update(height=16) for network in kit["networks"]])
    code, _, told = station("measure", kit, "--out", tmp_path / "figures", "--trust", trust[0])
    assert code == 1
    assert "expected tensor(uint8) (N, 16, 8, 1)" in told


def test_a_kit_for_a_runtime_that_is_not_here_is_refused(
    write_kit: Callable[..., Path], trust: list[Path], station: Said, tmp_path: Path
) -> None:
    kit = write_kit(runtime="tensorrt")
    code, _, told = station("measure", kit, "--out", tmp_path / "figures", "--trust", trust[0])
    assert code == 3
    assert told.startswith("error: the runtime tensorrt is not installed here: expected the package tensorrt")


@pytest.mark.parametrize("record", ["tensorrt 11.4", "tensorrt-rtx 1.7"])
def test_a_runtime_of_engines_gets_one_of_every_network_built_at_the_station(
    record: str,
    write_kit: Callable[..., Path],
    trust: list[Path],
    station: Said,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = installed(monkeypatch, record)
    monkeypatch.setattr(fingerprint, "_runtime_version", lambda runtime: f"{runtime} 1.0")
    out, runtime = tmp_path / "figures", record.partition(" ")[0]
    code, _, told = station("measure", write_kit(runtime=runtime), "--out", out, "--trust", trust[0])
    assert code == 0, told
    assert "built 2 of 2 engines" in told and "measured 4 of 4 turns" in told
    assert machine.library.names().count("Builder.build_serialized_network") == 2
    assert machine.library.names().count("Runtime.deserialize_cuda_engine") == 4  # one a turn
    found = read_measurements(out, load_trusted([tmp_path / "store" / "station.key.pub"]))
    provider = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[runtime]
    assert {r.latency.provider for r in found.results} == {f"{provider} {machine.library.__version__}"}


def test_two_onnxruntimes_at_the_station_are_refused(
    write_kit: Callable[..., Path], trust: list[Path], station: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "version", lambda name: "1.31.1")
    code, _, told = station("measure", write_kit(), "--out", tmp_path / "figures", "--trust", trust[0])
    assert code == 3
    assert (
        "left to chance" in told and "pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime\n" in told
    )


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(
    write_kit: Callable[..., Path], trust: list[Path], station: Said, tmp_path: Path
) -> None:
    kit = write_kit()
    for out, found in ((tmp_path / "none" / "figures", "No such file or directory"), (tmp_path, "a folder")):
        code, _, told = station("measure", kit, "--out", out, "--trust", trust[0])
        assert code == 2
        assert f"cannot write {out}: found {found}" in told and "turns" not in told


@pytest.mark.parametrize("when", ["before", "behind"])
def test_a_full_disk_is_told_and_leaves_no_file(
    when: str,
    write_kit: Callable[..., Path],
    trust: list[Path],
    station: Said,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anything is measured; or behind it, where something else filled the disk meanwhile."""
    (tmp_path / "stick").mkdir()
    station_key(tmp_path / "store")
    flushed: list[int] = []

    def full(descriptor: int) -> None:
        flushed.append(descriptor)
        if when == "before" or len(flushed) > 2:  # the first file and its folder
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "stick" / "figures"
    code, _, told = station("measure", write_kit(), "--out", out, "--trust", trust[0])
    assert code == 2
    assert f"error: cannot write {out}: found No space left on device. Name a file" in told
    assert ("turns" in told) is (when == "behind")
    assert list(out.parent.iterdir()) == []


@pytest.fixture
def figures(write_kit: Callable[..., Path], trust: list[Path], station: Said, tmp_path: Path) -> Path:
    """What a station measured."""
    assert station("measure", write_kit(), "--out", tmp_path / "figures", "--trust", trust[0])[0] == 0
    return tmp_path / "figures"


def test_the_file_is_one_line_of_canonical_json_and_its_signature(figures: Path) -> None:
    line, signature = figures.read_bytes().splitlines(keepends=True)
    assert canonical_bytes(json.loads(line)) == line
    assert len(bytes.fromhex(signature.decode().strip())) == 72


def test_every_byte_of_the_file_counts(figures: Path, tmp_path: Path) -> None:
    trusted, data = load_trusted([tmp_path / "store" / "station.key.pub"]), figures.read_bytes()
    assert read_measurements(figures, trusted)
    for index in (0, 100, len(data) // 2, len(data) - 146, len(data) - 145, len(data) - 40, len(data) - 1):
        figures.write_bytes(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :])
        with pytest.raises(BundleRefused):
            read_measurements(figures, trusted)
    for size in (0, 10, len(data) - 146, len(data) - 145, len(data) - 1):
        figures.write_bytes(data[:size])
        with pytest.raises(BundleRefused, match=r"no whole file of measurements.*Copy it again from the station"):
            read_measurements(figures, trusted)
    figures.unlink()
    with pytest.raises(BundleRefused, match="cannot read"):
        read_measurements(figures, trusted)


def test_the_file_of_another_station_is_refused(figures: Path, trust: list[Path]) -> None:
    with pytest.raises(BundleRefused, match=r"file of measurements is signed by a key not trusted"):
        read_measurements(figures, load_trusted(trust))


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda m: m.update(schema=7), EnvironmentLacks, "expected schema 1, found schema 7"),
        (lambda m: m["results"][0]["latency"].update(p50_ms=0), BundleRefused, "not above 0"),
        (lambda m: m["results"][0]["latency"].update(p50_ms=True), BundleRefused, "p50_ms is not as it must be"),
        (lambda m: m["results"].append(m["results"][0]), BundleRefused, "stands in it twice"),
        (lambda m: m.update(created="today"), BundleRefused, "no UTC time"),
    ],
)
def test_a_signed_file_that_cannot_be_meant_is_refused(
    edit: Callable[[dict[str, Any]], object], error: type[FactoryError], message: str, figures: Path, tmp_path: Path
) -> None:
    document = json.loads(figures.read_bytes().splitlines()[0])
    edit(document)
    line = canonical_bytes(document)
    private = load_private(tmp_path / "store" / "station.key")
    figures.write_bytes(line + sign(line, private, MEASUREMENTS_DOMAIN).hex().encode() + b"\n")
    with pytest.raises(error, match=message):
        read_measurements(figures, load_trusted([tmp_path / "store" / "station.key.pub"]))
