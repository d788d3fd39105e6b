from pathlib import Path

import numpy as np
import pytest

from export.runtime.errors import EnvironmentLacks
from factory.cost.book import LatencyBook, open_runner
from factory.cost.probe import probe
from factory.profiles import load_device
from factory.workspace import read_json
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


@pytest.mark.parametrize("name", ["gpu-tensorrt", "rtx-station"])
def test_a_device_of_another_kind_is_not_measured_here(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        EnvironmentLacks, match=rf"latency on device '{name}' cannot be measured on this machine.*cpu-x8"
    ):
        LatencyBook(tmp_path, load_device(name))


def test_the_probe_runs_as_the_station_would_run_it() -> None:
    shape = drawn(1)[0]
    frames = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 1), np.uint8)
    runner = open_runner(probe(shape), shape, DEVICE)
    together = runner.infer(frames)
    assert together.shape == (3, 3)
    assert np.isfinite(together).all()
    assert np.ptp(together, axis=0).max() > 0
    np.testing.assert_allclose(np.concatenate([runner.infer(f[None]) for f in frames]), together, rtol=1e-4, atol=1e-5)
