import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export.runtime.errors import UsageError
from export.runtime.install.install import rollback
from export.runtime.install.state import bundle_folder, read_state
from export.runtime.keys import load_trusted
from export.runtime.live import recorder, versions
from export.runtime.live.inspector import Inspector
from export.runtime.log import database
from export.runtime.log.history import History
from export.runtime.strictjson import canonical_bytes

Open = Callable[[], Inspector]


def budget(limit_ms: float) -> dict[str, Any]:
    return {"latency_ms": {"limit": limit_ms}}


def rows(store: Path) -> list[tuple[str, str, str | None]]:
    with History(store) as history:
        return [(row.entry.part, row.entry.verdict, row.entry.bundle) for row in history.since()]


def until(condition: Callable[[], bool]) -> None:
    end = monotonic() + 30
    while not condition():
        assert monotonic() < end, "in vain"
        sleep(0.01)


def settle(inspector: Inspector, bundle: str) -> None:
    """Wait until that bundle judges."""

    def judges() -> bool:
        inspector.poll()
        return inspector.status()["bundle"] == bundle

    until(judges)


def test_every_verdict_is_on_record_before_it_is_told(
    put: Any, opened: Open, store: Path, tiny: SimpleNamespace
) -> None:
    version = put()
    inspector = opened()
    answers = [inspector.inspect(tiny.picture(grey), f"part-{grey}") for grey in (40, 220)]
    assert [(answer.part, answer.verdict, answer.bundle) for answer in answers] == rows(store)
    assert [answer.verdict for answer in answers] == ["pass", "reject"]
    assert answers[0].bundle == version.bundle and answers[0].scores is not None
    assert inspector.status()["verdicts"] == {"pass": 1, "reject": 1}


def test_a_picture_asked_for_again_keeps_its_first_verdict(
    put: Any, opened: Open, store: Path, tiny: SimpleNamespace
) -> None:
    put()
    inspector = opened()
    first = inspector.inspect(tiny.picture(40), "p", "key")
    again = inspector.inspect(tiny.picture(220), "p", "key")
    assert (first.verdict, again.verdict, len(rows(store))) == ("pass", "pass", 1)


@pytest.mark.parametrize("safe", ["review", "reject"])
def test_what_cannot_be_read_gets_the_safe_verdict_and_its_fault(
    put: Any, opened: Open, store: Path, safe: str
) -> None:
    put()
    (store / "station.toml").write_text(f'fault = "{safe}"\n')
    inspector = opened()
    assert inspector.try_inspect(b"not yet a picture", "p", "key") is None
    answer = inspector.inspect(b"no picture", "p", "key")
    assert (answer.verdict, answer.label, answer.scores) == (safe, None, None)
    assert answer.fault is not None and "not a picture" in answer.fault
    assert rows(store) == [("p", safe, answer.bundle)]
    assert inspector.status()["faults"] == 1


def test_nothing_installed_is_told(opened: Open) -> None:
    with pytest.raises(UsageError, match="station install BUNDLE"):
        opened()


def test_a_log_that_is_locked_stops_no_part_and_catches_up(
    put: Any, opened: Open, store: Path, tiny: SimpleNamespace, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    monkeypatch.setattr(recorder, "AGAIN_S", 0.0)
    put()
    inspector = opened()
    other = sqlite3.connect(store / "log" / "inspections.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    dark, bright = (inspector.inspect(tiny.picture(grey), f"part-{grey}") for grey in (40, 220))
    assert (dark.verdict, bright.verdict) == ("review", "reject")  # never a pass that nobody can explain
    assert dark.fault is not None and "is locked" in dark.fault
    assert (inspector.status()["healthy"], inspector.status()["unrecorded"]) == (False, 2)
    other.execute("ROLLBACK")
    other.close()
    assert inspector.status()["healthy"]  # without another part: who asks first may send none before
    assert inspector.inspect(tiny.picture(41), "part-41").verdict == "pass"
    assert [row[:2] for row in rows(store)] == [("part-40", "review"), ("part-220", "reject"), ("part-41", "pass")]
    assert (inspector.status()["healthy"], inspector.status()["unrecorded"]) == (True, 0)
    assert sum("FAULT" in line for line in said) == 1 and "can be written again" in said[-1]


def test_a_newly_installed_version_takes_over_between_two_parts(
    put: Any, opened: Open, store: Path, tiny: SimpleNamespace, networks: SimpleNamespace, said: list[str]
) -> None:
    old = put()
    inspector = opened()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(inspector.inspect, tiny.picture(40), f"{i:04d}") for i in range(300)]
        new = put(model=networks.biased((-9.0, 0.0, 0.0)))
        settle(inspector, new.bundle)
        asked += [pool.submit(inspector.inspect, tiny.picture(40), f"{i:04d}") for i in range(300, 600)]
        answers = [each.result() for each in asked]
    by_bundle = {answer.bundle: answer.verdict for answer in answers}
    assert by_bundle == {old.bundle: "pass", new.bundle: "reject"}
    assert all(answer.fault is None for answer in answers)
    recorded = rows(store)
    assert sorted(part for part, *_ in recorded) == [f"{i:04d}" for i in range(600)]
    assert {answer.bundle for answer in answers[300:]} == {new.bundle}
    assert [line for line in said if "DRIFT" not in line] == [f"bundle {new.bundle} takes over from {old.bundle}"]


def test_a_version_that_fails_on_live_parts_gives_way_to_the_one_before(
    put: Any, opened: Open, store: Path, tiny: SimpleNamespace, networks: SimpleNamespace, said: list[str]
) -> None:
    old = put()
    inspector = opened()
    new = put(model=networks.failing_from(230))
    settle(inspector, new.bundle)
    assert inspector.inspect(tiny.picture(40), "fine").bundle == new.bundle
    answer = inspector.inspect(tiny.picture(240), "bright")
    assert (answer.bundle, answer.verdict, answer.fault) == (old.bundle, "reject", None)
    state = read_state(store)
    assert state.current is not None and state.current.bundle == old.bundle
    assert [failure.bundle for failure in state.failures] == [new.bundle]
    assert "RETURNED" in said[-1] and "out of" in state.failures[0].reason
    assert inspector.inspect(tiny.picture(240), "next").bundle == old.bundle


def test_a_version_on_probation_has_a_way_back_after_a_restart_too(
    put: Any, opened: Open, tiny: SimpleNamespace, networks: SimpleNamespace
) -> None:
    old = put()
    put(model=networks.failing_from(230))
    inspector = opened()
    assert inspector.status()["on_probation"]
    assert inspector.inspect(tiny.picture(240), "bright").bundle == old.bundle


def test_probation_ends(
    put: Any, opened: Open, store: Path, tiny: SimpleNamespace, networks: SimpleNamespace, said: list[str]
) -> None:
    put()
    new = put(model=networks.failing_from(230))
    (store / "station.toml").write_text("[probation]\nparts = 3\n")
    inspector = opened()
    for number in range(3):
        inspector.inspect(tiny.picture(40), f"{number}")
    assert said == [f"bundle {new.bundle} has judged 3 parts and stays"]
    inspector.close()
    assert not opened().status()["on_probation"]


def test_a_version_that_is_too_slow_gives_way(
    put: Any, opened: Open, store: Path, tiny: SimpleNamespace, networks: SimpleNamespace
) -> None:
    (store).mkdir()
    (store / "station.toml").write_text("[probation]\nslow_parts = 4\n")
    old = put()
    inspector = opened()
    for number in range(9):
        inspector.inspect(tiny.picture(40), f"before-{number}")
    new = put(model=networks.slow(), asked=tiny.draft(budget=budget(3.0)))
    settle(inspector, new.bundle)
    answers = [inspector.inspect(tiny.picture(40), f"after-{number}") for number in range(6)]
    assert [answer.bundle for answer in answers] == [new.bundle] * 4 + [old.bundle] * 2
    assert "4 parts in a row" in read_state(store).failures[0].reason


def test_a_version_stays_that_misses_its_budget_here_as_the_one_before_would(
    put: Any, opened: Open, tiny: SimpleNamespace, networks: SimpleNamespace
) -> None:
    put(model=networks.slow())
    inspector = opened()
    for number in range(5):
        inspector.inspect(tiny.picture(40), f"before-{number}")
    new = put(asked=tiny.draft(budget=budget(1e-6)))
    settle(inspector, new.bundle)
    answers = [inspector.inspect(tiny.picture(40), f"after-{number}") for number in range(40)]
    assert {answer.bundle for answer in answers} == {new.bundle}


@pytest.mark.parametrize("returns", [True, False])
def test_drift_is_told_and_may_end_a_probation(
    put: Any, opened: Open, store: Path, tiny: SimpleNamespace, said: list[str], returns: bool
) -> None:
    old, new = put(), put(asked=replace(tiny.draft(), line="cells-4"))
    rules = f"[probation]\non_drift = {str(returns).lower()}\n[drift]\nparts_between_false_alarms = 100\n"
    (store / "station.toml").write_text(rules)
    inspector = opened()
    for number in range(400):
        inspector.inspect(tiny.picture(250), f"{number}")
    assert any(line.startswith("DRIFT: brightness is higher") for line in said)
    assert inspector.status()["drift"]
    assert inspector.status()["bundle"] == (old.bundle if returns else new.bundle)


def test_drift_is_found_across_restarts(
    put: Any, opened: Open, store: Path, tiny: SimpleNamespace, said: list[str]
) -> None:
    put()
    for start in range(0, 60, 6):
        inspector = opened()
        for number in range(6):
            inspector.inspect(tiny.picture(250), f"{start + number}")
        inspector.close()
        if any("DRIFT" in line for line in said):
            break
    assert any(line.startswith("DRIFT: brightness is higher since about part") for line in said)
    assert start > 0  # which the parts of one start alone would not have shown


def test_a_version_that_cannot_be_loaded_lets_the_other_go_on(
    put: Any, opened: Open, store: Path, tiny: SimpleNamespace, networks: SimpleNamespace, said: list[str]
) -> None:
    old = put()
    inspector = opened()
    new = put(model=networks.biased((0.1, 0.0, 0.0)))
    (bundle_folder(store, new.bundle) / "model.onnx").write_bytes(b"spoiled since")

    def told() -> bool:
        inspector.poll()
        return bool(said)

    until(told)
    assert "cannot be loaded" in said[0]
    assert inspector.inspect(tiny.picture(40), "p").bundle == old.bundle
    current = read_state(store).current
    assert current is not None and current.bundle == old.bundle


def test_at_the_start_the_version_before_steps_in_for_one_that_was_spoiled(
    put: Any, opened: Open, store: Path, tiny: SimpleNamespace, networks: SimpleNamespace, said: list[str]
) -> None:
    old = put()
    new = put(model=networks.biased((0.1, 0.0, 0.0)))
    (bundle_folder(store, new.bundle) / "model.onnx").write_bytes(b"spoiled since")
    assert opened().inspect(tiny.picture(40), "p").bundle == old.bundle
    assert "RETURNED" in said[0]


def test_rolled_back_by_hand_the_old_one_takes_over_in_the_running_process(
    put: Any, opened: Open, store: Path, trust: list[Path], networks: SimpleNamespace
) -> None:
    old = put()
    put(model=networks.biased((0.1, 0.0, 0.0)))
    inspector = opened()
    rollback(store, load_trusted(trust))
    settle(inspector, old.bundle)


def test_what_was_gone_back_from_by_hand_is_no_way_back_from_a_proven_version(
    put: Any, opened: Open, store: Path, trust: list[Path], tiny: SimpleNamespace, networks: SimpleNamespace
) -> None:
    store.mkdir()
    (store / "station.toml").write_text("[probation]\nparts = 3\n")
    old = put()
    inspector = opened()
    for number in range(3):
        inspector.inspect(tiny.picture(40), f"{number}")
    new = put(model=networks.biased((0.1, 0.0, 0.0)))
    settle(inspector, new.bundle)
    assert inspector.status()["on_probation"]
    rollback(store, load_trusted(trust))
    settle(inspector, old.bundle)
    assert not inspector.status()["on_probation"]


def test_a_network_that_fails_alone_gets_the_safe_verdict_and_is_opened_again(
    put: Any,
    opened: Open,
    store: Path,
    tiny: SimpleNamespace,
    networks: SimpleNamespace,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = put(model=networks.failing_from(230))
    inspector = opened()
    bright = inspector.inspect(tiny.picture(240), "bright")
    assert (bright.verdict, bright.bundle) == ("review", version.bundle)
    assert bright.fault is not None and "could not be opened again" in bright.fault
    assert not inspector.status()["healthy"]
    assert "opened again" in said[0] and "FAULT" in said[1]
    # The next part finds the network open and is judged, without a restart.
    assert inspector.inspect(tiny.picture(40), "dark").verdict == "pass"
    tried = len(said)
    assert inspector.inspect(tiny.picture(240), "again").verdict == "review"
    assert len(said) == tried  # not at every part that fails
    monkeypatch.setattr(versions, "AGAIN_S", 0.0)
    assert inspector.inspect(tiny.picture(240), "later").verdict == "review"
    assert len(said) > tried


def test_a_clock_that_jumps_back_changes_no_order(
    put: Any, opened: Open, store: Path, tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put()
    inspector = opened()
    inspector.inspect(tiny.picture(40), "first")
    monkeypatch.setattr("export.runtime.live.inspector._now", lambda: "1970-01-01T00:00:00.000Z")
    inspector.inspect(tiny.picture(40), "second")
    assert [part for part, *_ in rows(store)] == ["first", "second"]


def test_a_novel_picture_goes_to_a_person(put: Any, opened: Open, tiny: SimpleNamespace) -> None:
    put(extra={"reference.json": ("reference", canonical_bytes(tiny.reference(limit=0.5)))})
    stripes, file = np.zeros((8, 8), np.uint8), BytesIO()
    stripes[::2] = 255
    Image.fromarray(stripes).save(file, "PNG")
    answer = opened().inspect(file.getvalue(), "p")
    assert (answer.verdict, answer.reason) == ("review", "unlike the training pictures")
