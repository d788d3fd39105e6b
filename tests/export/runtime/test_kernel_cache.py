"""The kernels of TensorRT-RTX kept between starts, against the recorded API: nothing here ran on a GPU."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.runtime import cuda
from export.runtime.keys import load_trusted
from export.runtime.manifest import DeviceContract
from export.runtime.rebuild import rebuild_engine
from export.runtime.station import Station
from tests.export.api.fake import Machine, installed

RTX = "tensorrt-rtx 1.7"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return installed(monkeypatch, RTX)


@pytest.fixture
def start(
    machine: Machine, make_bundle: Callable[..., Path], tiny: SimpleNamespace, trust: list[Path], store: Path
) -> Callable[[], Station]:
    """Start a station whose engine was built for it."""
    device = DeviceContract(name="rtx", runtime="tensorrt-rtx", precision="fp32", batch=(1, 1, 4))
    folder = make_bundle(asked=tiny.draft(device=device))
    rebuild_engine(folder, load_trusted(trust), store)
    machine.compiled.clear()

    def begin() -> Station:
        machine.compiled.clear()
        return Station.load(folder, trust, store=store)

    return begin


def kept(store: Path) -> Path:
    (path,) = (store / "kernels").iterdir()
    return path


def verdicts(station: Station, tiny: SimpleNamespace, *greys: int) -> list[str]:
    return [verdict.verdict for verdict in station.inspect_batch([tiny.picture(grey) for grey in greys])]


def test_a_second_start_compiles_nothing(
    start: Callable[[], Station], machine: Machine, store: Path, tiny: SimpleNamespace
) -> None:
    assert verdicts(start(), tiny, 40, 220, 220) == ["pass", "reject", "reject"]
    assert len(machine.compiled) == 2  # the golden pictures one by one, and three together
    first = kept(store).read_bytes()
    again = start()
    assert verdicts(again, tiny, 40, 220, 220) == ["pass", "reject", "reject"]
    assert machine.compiled == []
    assert kept(store).read_bytes() == first
    verdicts(again, tiny, 40, 40)
    assert len(machine.compiled) == 1 and len(kept(store).read_bytes()) > len(first)


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: b"", lambda d: d + b"x", lambda d: b"x" + d[1:]])
def test_what_this_station_did_not_sign_is_never_read_and_is_replaced(
    start: Callable[[], Station],
    machine: Machine,
    store: Path,
    damage: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    start()
    whole = kept(store).read_bytes()
    kept(store).write_bytes(damage(whole))
    machine.library.said.clear()
    start()
    assert "IRuntimeCache.deserialize" not in machine.library.names()
    assert "did not sign them for this engine, GPU and driver" in caplog.text
    assert kept(store).read_bytes() == whole


def test_another_driver_has_its_own_kernels(
    start: Callable[[], Station], machine: Machine, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    before, gpu = kept(store).read_bytes(), cuda.gpu()
    monkeypatch.setattr(cuda, "gpu", lambda: replace(gpu, driver="13.2"))
    start()
    assert len(machine.compiled) == 1
    assert kept(store).read_bytes() != before


def test_kernels_that_the_library_refuses_are_compiled_anew(
    start: Callable[[], Station], machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    start()
    machine.library.behave["IRuntimeCache.deserialize"] = lambda *_: False
    start()
    assert len(machine.compiled) == 1
    assert "TensorRT-RTX does not take them" in caplog.text


@pytest.mark.parametrize("member", ["IRuntimeConfig.create_runtime_cache", "IRuntimeCache.serialize"])
def test_a_library_that_gives_no_kernels_stops_no_line(
    member: str, start: Callable[[], Station], machine: Machine, store: Path, tiny: SimpleNamespace
) -> None:
    machine.library.behave[member] = lambda *_: None
    for _ in range(2):
        assert verdicts(start(), tiny, 40, 220) == ["pass", "reject"]
    assert not (store / "kernels").exists()


def test_a_disk_that_takes_nothing_stops_no_line(
    start: Callable[[], Station],
    store: Path,
    tiny: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert verdicts(start(), tiny, 220) == ["reject"]
    assert caplog.text.count("they cannot be kept: [Errno 28] No space left on device") == 1
    assert list((store / "kernels").iterdir()) == []


def test_tensorrt_compiles_when_it_builds(
    make_bundle: Callable[..., Path], tiny: SimpleNamespace, trust: list[Path], store: Path, monkeypatch: Any
) -> None:
    installed(monkeypatch, "tensorrt 11.4")
    device = DeviceContract(name="orin", runtime="tensorrt", precision="fp32")
    folder = make_bundle(asked=tiny.draft(device=device))
    rebuild_engine(folder, load_trusted(trust), store)
    Station.load(folder, trust, store=store)
    assert not (store / "kernels").exists()
