from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.runtime.errors import UsageError
from export.runtime.fingerprint import fingerprint
from export.runtime.kit import Frame, Measurements, Result
from export.runtime.manifest import Signer
from export.runtime.timing import Effort, Latency, Variant
from factory.cost import book
from factory.cost.away import Unmeasured, add, settings_of, wanted
from factory.cost.book import LatencyBook, open_runner
from factory.cost.probe import probe
from factory.delivery import bench
from factory.profiles import DeviceProfile, load_device
from factory.spaces.plan import Plan
from factory.workspace import read_json, sha256
from tests.factory.cost.conftest import DEVICE, Ticks, drawn


@pytest.mark.usefixtures("_quick")
def test_the_book_measures_once_and_reads_back(tmp_path: Path) -> None:
    plans, ticks = drawn(3), Ticks()
    first = LatencyBook(tmp_path, DEVICE).measure(plans, ticks)
    assert all(0 < ms < 1000 for ms in first)
    (book,) = (tmp_path / "devices").iterdir()
    written = book.read_bytes()
    assert LatencyBook(tmp_path, DEVICE).measure(plans[::-1], ticks) == first[::-1]
    assert book.read_bytes() == written
    more = LatencyBook(tmp_path, DEVICE).measure([*plans[:2], *drawn(1, seed=9)], ticks)
    assert more[:2] == first[:2]
    assert len(read_json(book)["p50_ms"]) == 4
    assert ticks.count == 9


@pytest.mark.usefixtures("_quick")
def test_another_device_has_a_book_of_its_own(tmp_path: Path) -> None:
    described = DEVICE.model_copy(update={"description": "the same, in other words"})
    threaded = DEVICE.model_copy(update={"threads": 2})
    for device in (DEVICE, described, threaded):
        LatencyBook(tmp_path, device).measure(drawn(1), lambda: None)
    assert len(list((tmp_path / "devices").iterdir())) == 2


@pytest.mark.usefixtures("_quick")
def test_the_book_says_on_what_and_when_it_was_measured(tmp_path: Path) -> None:
    book = LatencyBook(tmp_path, DEVICE)
    for plans in (drawn(2), drawn(2), drawn(3)):
        book.measure(plans, lambda: None)
    (path,) = (tmp_path / "devices").iterdir()
    written = read_json(path)
    assert written["fingerprint"]["machine"] == fingerprint("onnxruntime-cpu").identity
    assert [occasion["networks"] for occasion in written["occasions"]] == [2, 1]
    assert all({"time", "load", "governor", "clock_mhz"} <= set(occasion) for occasion in written["occasions"])


def test_what_is_confirmed_is_timed_thoroughly_once_and_stands_beside_what_was_timed_briefly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    efforts: list[tuple[int, Effort]] = []

    def timed(variants: Sequence[Variant], effort: Effort) -> list[Latency]:
        efforts.append((len(variants), effort))
        return [Latency((1.0, 1.0, 1.1, 1.1, 1.2, 1.2), turn_medians_ms=(1.0, 1.1, 1.2)) for _ in variants]

    monkeypatch.setattr(book, "time_variants", timed)
    plans = drawn(3)
    brief = LatencyBook(tmp_path, DEVICE).measure(plans, Ticks())
    found = LatencyBook(tmp_path, DEVICE).confirm(plans[:2])
    spread = float(np.std([1.0, 1.1, 1.2]) / np.mean([1.0, 1.1, 1.2]))
    for told in found:
        assert told.ms == 1.1
        assert told.high_ms == pytest.approx(1.1 * (1 + 2 * spread), rel=0.3) and told.high_ms > 1.15
    assert LatencyBook(tmp_path, DEVICE).confirm(plans)[:2] == found
    assert efforts == [(2, book.CONFIRMED), (1, book.CONFIRMED)]
    assert LatencyBook(tmp_path, DEVICE).measure(plans, Ticks()) == brief
    (path,) = (tmp_path / "devices").iterdir()
    assert [occasion["networks"] for occasion in read_json(path)["occasions"]] == [3, 2, 1]


@pytest.fixture
def _no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(*_: object, **__: object) -> None:
        raise AssertionError("timed on this machine")

    monkeypatch.setattr(book, "measure", timed)


AWAY = DEVICE.model_copy(update={"measured": "station"})


@pytest.mark.usefixtures("_no_timing")
@pytest.mark.parametrize(
    "device",
    [load_device("gpu-tensorrt"), load_device("rtx-station"), load_device("gpu-onnxruntime"), AWAY],
    ids=lambda device: f"{device.name}, {device.measured}",
)
def test_a_device_that_is_not_here_is_not_timed_here(
    device: DeviceProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs, plans, ticks = tmp_path / "runs", drawn(3), Ticks()
    with pytest.raises(Unmeasured, match=rf"3 of 3 networks are not measured on device '{device.name}'") as error:
        LatencyBook(runs, device).measure(plans, ticks)
    assert (error.value.exit_code, ticks.count) == (3, 0)
    for command in (
        f"factory measure {device.name} --kit kit --runs {runs}",
        f"station measure kit --out {device.name}.measured",
        f"factory measure {device.name} --read {device.name}.measured --trust station.key.pub --runs {runs}",
    ):
        assert command in str(error.value)
    remembered = list(wanted(runs, device.name))
    assert {path.read_bytes() for _, path in remembered} == {probe(plan) for plan in plans}
    assert {frame for frame, _ in remembered} == {Frame(height=24, width=24, channels=1, classes=3)}
    with pytest.raises(Unmeasured):
        LatencyBook(runs, device).measure(drawn(1), ticks)
    assert len(list(wanted(runs, device.name))) == 3  # each once


def carried(plans: list[Plan], ms: list[float]) -> Measurements:
    """What a station says of these plans."""
    frame = Frame(height=24, width=24, channels=1, classes=3)
    return Measurements(
        created="2025-01-31T12:00:00Z",
        kit="0" * 16,
        device=settings_of(AWAY),
        identity={"processor": "another"},
        circumstances={"load": [0.0]},
        results=tuple(
            Result(sha256=sha256(probe(p)), frame=frame, latency=Latency((took,) * 9).summary)
            for p, took in zip(plans, ms, strict=True)
        ),
        signer=Signer(key_id="1" * 16, name="station"),
    )


@pytest.mark.usefixtures("_no_timing")
def test_what_a_station_measured_is_read_and_never_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plans, ticks = drawn(4), Ticks()
    before = LatencyBook(tmp_path, AWAY).fingerprint
    path, fresh = add(AWAY, carried(plans[:2], [1.0, 2.0]))
    assert (path, fresh) == (Path("profiles/devices/bench.measured.json"), 2)
    book = LatencyBook(tmp_path, AWAY)
    assert book.fingerprint["machine"] == {"processor": "another"} and book.fingerprint != before
    assert book.measure([plans[1], plans[0], plans[1]], ticks) == [2.0, 1.0, 2.0]
    assert ticks.count == 3
    with pytest.raises(Unmeasured, match=r"2 of 4 networks.*found 2 of 4"):
        book.measure(plans, ticks)
    assert {p.stem for _, p in wanted(tmp_path, "bench")} == {sha256(probe(p)) for p in plans[2:]}
    assert add(AWAY, carried(plans[1:3], [7.0, 3.0]))[1] == 1
    again = LatencyBook(tmp_path, AWAY)
    assert again.measure(plans[:3], ticks) == [1.0, 2.0, 3.0]
    assert again.fingerprint == book.fingerprint
    assert len(read_json(path)["files"]) == 2


def test_measurements_of_another_machine_or_setting_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = carried(drawn(1), [1.0])
    path, _ = add(AWAY, first)
    written = path.read_bytes()
    with pytest.raises(
        UsageError, match=r"on another machine: expected processor another, found processor new.*delete .*json to begin"
    ):
        add(AWAY, replace(first, identity={"processor": "new"}))
    with pytest.raises(UsageError, match=r"with other settings: expected threads 1, found threads 2.*pack a new one"):
        add(AWAY, replace(first, device=replace(first.device, threads=2)))
    with pytest.raises(UsageError, match=r"for another device: expected bench, found hall-7.*measure hall-7 --read"):
        add(AWAY, replace(first, device=replace(first.device, name="hall-7")))
    assert path.read_bytes() == written
    with pytest.raises(UsageError, match=r"json was measured with other settings: expected threads 3, found threads 1"):
        LatencyBook(tmp_path, AWAY.model_copy(update={"threads": 3}))
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"cannot be used: .*lacks 'device'.*delete it"):
        LatencyBook(tmp_path, AWAY)


@pytest.mark.usefixtures("_no_timing")
def test_a_delivered_file_of_a_device_that_is_away_is_timed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (shape,) = drawn(1)
    models = {"a": ({"fp32": probe(shape)}, shape)}
    with pytest.raises(Unmeasured, match="1 of 1"):
        bench(models, LatencyBook(tmp_path, AWAY), 1.0, tmp_path, lambda: None)
    add(AWAY, carried([shape], [1.5]))
    bench(models, LatencyBook(tmp_path, AWAY), 1.0, tmp_path, lambda: None)
    (row,) = read_json(tmp_path / "bench.json").values()
    assert (row["p50_ms"], row["runs"], row["samples_ms"]) == (1.5, 9, [])


def test_the_probe_runs_as_the_station_would_run_it() -> None:
    shape = drawn(1)[0]
    frames = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 1), np.uint8)
    runner = open_runner(probe(shape), shape, DEVICE)
    together = runner.infer(frames)
    assert together.shape == (3, 3)
    assert np.isfinite(together).all()
    assert np.ptp(together, axis=0).max() > 0
    np.testing.assert_allclose(np.concatenate([runner.infer(f[None]) for f in frames]), together, rtol=1e-4, atol=1e-5)
