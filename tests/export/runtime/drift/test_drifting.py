"""The command `station drift` on a real store: a bundle installed, parts judged and logged."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from export.runtime.cli import main
from export.runtime.drift.reference import QUANTITIES
from export.runtime.install.install import install
from export.runtime.keys import load_trusted
from export.runtime.log.log import Entry, Log

Run = Callable[..., int]


@pytest.fixture
def store(make_bundle: Any, trust: list[Path], tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    install(make_bundle(), load_trusted(trust), folder, allow_older=True, say=lambda _: None, test=lambda *_: {})
    return folder


@pytest.fixture
def run(store: Path, trust: list[Path]) -> Run:
    keys = [word for key in trust for word in ("--trust", str(key))]
    return lambda *words: main(["drift", "--store", str(store), *keys, *map(str, words)])


def logged(store: Path, brightness: np.ndarray, reference: Any, bundle: str | None = None) -> None:
    """Parts whose other values are drawn from the reference's own."""
    rng = np.random.default_rng(0)
    (installed,) = (path.name for path in (store / "bundles").iterdir())
    known = reference.values.by_name()
    with Log(store, keep_passes=0, pictures_mb=0) as log:
        for number, grey in enumerate(brightness):
            values = {name: float(rng.choice(known[name])) for name in QUANTITIES} | {"brightness": float(grey)}
            fault = number % 50 == 49
            if fault:
                values = dict.fromkeys(QUANTITIES)
            entry = Entry(
                part=f"p{number}", source=f"{bundle}{number}", time="2026-01-31T12:00:00.000Z",
                bundle=bundle or installed, verdict="review" if fault else "pass", label=None, threshold=None, ms=1.0,
                sha256=None, kept=None, reason=None, fault="unreadable" if fault else None, **values,
            )  # fmt: skip
            log.record(entry, None)


def test_a_change_is_told_and_drawn(
    run: Run, store: Path, tiny: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    usual = rng.choice(tiny.reference().values.brightness, 300)
    logged(store, np.concatenate([usual, rng.uniform(230, 255, 100)]), tiny.reference())
    assert run("--json", "--plot", tmp_path / "drift.svg") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["parts"] == 392, "parts with a fault have no values"
    (alarm,) = document["alarms"]
    assert (alarm["quantity"], alarm["direction"]) == ("brightness", "higher")
    assert abs(alarm["since"] - 295) < 15
    assert document["quantities"]["brightness"]["latest"]["p95"] > 230
    assert (tmp_path / "drift.svg").read_text().count('class="alarm"') == 1
    assert run() == 0
    shown = capsys.readouterr()
    assert "ALARM: brightness is higher since about part" in shown.out
    assert "next: station drift --plot drift.svg" in shown.err


def test_only_parts_of_the_installed_bundle_count(
    run: Run, store: Path, tiny: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    logged(store, np.full(200, 250.0), tiny.reference(), bundle="0123456789abcdef")
    assert run() == 0
    assert "no alarm" in capsys.readouterr().out
    logged(store, np.random.default_rng(1).choice(tiny.reference().values.brightness, 100), tiny.reference())
    assert run("--last", 60, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["parts"], document["alarms"], document["plot"]) == (58, [], None)


def test_a_station_without_a_log_says_so(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "logged nothing yet" in capsys.readouterr().err
