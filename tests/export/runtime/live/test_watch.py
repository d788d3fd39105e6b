import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any

import pytest

from export.runtime.cli import main
from export.runtime.live.inspector import Answer, Inspector
from export.runtime.live.watch import watch
from export.runtime.log import database
from export.runtime.log.history import History, log_file
from export.runtime.settings import WatchSettings

Open = Callable[[], Inspector]
QUICK = WatchSettings(settle_ms=0, give_up_ms=150)


@contextmanager
def watching(
    folder: Path, inspector: Inspector, said: list[str], *, remove: bool, settings: WatchSettings = QUICK
) -> Iterator[list[Answer]]:
    told: list[Answer] = []
    stop = Event()
    thread = Thread(
        target=watch,
        args=(folder, inspector, settings),
        kwargs={
            "remove": remove,
            "tell": lambda _, answer, again: told.append(answer),
            "say": said.append,
            "stop": stop,
        },
    )
    thread.start()
    try:
        yield told
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    end = monotonic() + 30
    while not condition():
        assert monotonic() < end, "in vain"
        sleep(0.005)


def recorded(store: Path) -> list[tuple[str, str]]:
    with History(store) as history:
        return [(row.entry.part, row.entry.verdict) for row in history.since()]


@pytest.mark.parametrize("remove", [True, False])
def test_each_picture_that_arrives_gets_one_verdict(
    put: Any, opened: Open, store: Path, tmp_path: Path, tiny: SimpleNamespace, said: list[str], remove: bool
) -> None:
    put()
    camera = tmp_path / "camera"
    camera.mkdir()
    with watching(camera, opened(), said, remove=remove) as told:
        for number in range(30):
            (camera / f".{number}.png").write_bytes(tiny.picture(40 + 180 * (number % 2)))
            (camera / f".{number}.png").rename(camera / f"{number:02d}.png")
        until(lambda: len(told) == 30)
        until(lambda: remove != bool(list(camera.iterdir())))
        sleep(0.1)  # nothing comes twice
    assert {answer.part: answer.verdict for answer in told} == dict(recorded(store))
    assert Counter(answer.verdict for answer in told) == {"pass": 15, "reject": 15}
    # After a restart what stayed is neither judged nor told again.
    with watching(camera, opened(), said, remove=remove) as told:
        (camera / "31.png").write_bytes(tiny.picture(40))
        until(lambda: len(told) == 1)
    assert len(recorded(store)) == 31


def test_a_picture_that_is_still_being_written_is_waited_for(
    put: Any, opened: Open, store: Path, tmp_path: Path, tiny: SimpleNamespace, said: list[str]
) -> None:
    put()
    camera, whole = tmp_path / "camera", tiny.picture(40)
    camera.mkdir()
    patient = WatchSettings(settle_ms=200, give_up_ms=2000)
    with watching(camera, opened(), said, remove=True, settings=patient) as told:
        for end in range(10, len(whole) + 1, 7):
            (camera / "a.png").write_bytes(whole[:end])
            sleep(0.02)
        (camera / "a.png").write_bytes(whole[:-20])
        sleep(0.5)  # long enough to be looked at, and found cut short
        (camera / "a.png").write_bytes(whole)
        until(lambda: bool(told))
    assert [(answer.part, answer.verdict, answer.fault) for answer in told] == [("a", "pass", None)]


def test_a_picture_that_never_becomes_whole_gets_the_safe_verdict(
    put: Any, opened: Open, store: Path, tmp_path: Path, tiny: SimpleNamespace, said: list[str]
) -> None:
    put()
    camera = tmp_path / "camera"
    camera.mkdir()
    (camera / "half.png").write_bytes(tiny.picture(40)[:40])
    (camera / "empty.png").write_bytes(b"")
    with watching(camera, opened(), said, remove=True) as told:
        until(lambda: len(told) == 2)
    assert {answer.verdict for answer in told} == {"review"}
    assert all(answer.fault for answer in told)
    assert dict(recorded(store)) == {"half": "review", "empty": "review"}


def test_a_camera_folder_that_is_gone_is_told_once_and_waited_for(
    put: Any, opened: Open, tmp_path: Path, tiny: SimpleNamespace, said: list[str]
) -> None:
    put()
    camera = tmp_path / "camera"
    camera.mkdir()
    with watching(camera, opened(), said, remove=True) as told:
        camera.rmdir()
        until(lambda: bool(said))
        sleep(0.1)
        camera.mkdir()
        (camera / "a.png").write_bytes(tiny.picture(40))
        until(lambda: len(told) == 1)
    assert len(said) == 2 and "FAULT: no pictures come" in said[0] and "is back" in said[1]


def test_an_arrival_on_record_whose_file_should_be_gone_is_told_again_and_not_judged_again(
    put: Any, opened: Open, store: Path, tmp_path: Path, tiny: SimpleNamespace, said: list[str]
) -> None:
    put()
    camera = tmp_path / "camera"
    camera.mkdir()
    (camera / "a.png").write_bytes(tiny.picture(40))
    with watching(camera, opened(), said, remove=False) as told:
        until(lambda: len(told) == 1)
    with watching(camera, opened(), said, remove=True) as told:  # as if stopped between the record and the removal
        until(lambda: len(told) == 1)
        until(lambda: not list(camera.iterdir()))
    assert recorded(store) == [("a", "pass")]


def test_a_file_stays_while_its_verdict_is_not_on_record(
    put: Any,
    opened: Open,
    store: Path,
    tmp_path: Path,
    tiny: SimpleNamespace,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    put()
    camera, inspector = tmp_path / "camera", opened()
    camera.mkdir()
    other = sqlite3.connect(log_file(store), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with watching(camera, inspector, said, remove=True) as told:
        (camera / "a.png").write_bytes(tiny.picture(40))
        until(lambda: len(told) == 1)
        sleep(0.1)
        assert [path.name for path in camera.iterdir()] == ["a.png"]
        other.execute("ROLLBACK")
        other.close()
        until(lambda: not inspector.unrecorded)
        (camera / "b.png").write_bytes(tiny.picture(40))
        until(lambda: not (camera / "b.png").exists())
    assert recorded(store) == [("a", "review"), ("b", "pass")]


def command(store: Path, camera: Path) -> list[str]:
    return [sys.executable, "-m", "export.runtime.cli", "watch", str(camera), "--remove", "--store", str(store)]


@pytest.fixture
def own(put: Any, store: Path, trust: list[Path], tmp_path: Path) -> Path:
    """A store that trusts the key, with a version installed, and an empty camera folder beside it."""
    put()
    (store / "trusted").mkdir()
    (store / "trusted" / "w.pub").write_bytes(trust[0].read_bytes())
    (store / "station.toml").write_text("[watch]\nsettle_ms = 0\n")
    (tmp_path / "camera").mkdir()
    return tmp_path / "camera"


def test_killed_at_any_time_it_has_lost_no_verdict_that_it_told_and_gives_none_twice(
    own: Path, store: Path, tmp_path: Path, tiny: SimpleNamespace
) -> None:
    rng, arrived, out = random.Random(0), 0, tmp_path / "told"
    for _ in range(3):
        with out.open("a") as stream:
            process = subprocess.Popen(command(store, own), stdout=stream, stderr=subprocess.DEVNULL)
        end = monotonic() + 1.0 + rng.random()
        while monotonic() < end:
            (own / f".{arrived}.png").write_bytes(tiny.picture(40 + 180 * (arrived % 2)))
            (own / f".{arrived}.png").rename(own / f"{arrived:05d}.png")
            arrived += 1
            sleep(0.002)
        process.kill()
        process.wait()
    with out.open("a") as stream:
        process = subprocess.Popen(command(store, own), stdout=stream, stderr=subprocess.DEVNULL)
    until(lambda: not list(own.iterdir()))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    told = [json.loads(line) for line in out.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    on_record = recorded(store)
    assert len(on_record) == len(dict(on_record)) == arrived > 100
    assert {answer["part"] for answer in told} == set(dict(on_record))
    assert all(dict(on_record)[answer["part"]] == answer["verdict"] for answer in told)


def test_ctrl_c_ends_it_behind_the_part_at_work(own: Path, store: Path, tiny: SimpleNamespace) -> None:
    process = subprocess.Popen(
        command(store, own), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    (own / "a.png").write_bytes(tiny.picture(40))
    until(lambda: not (own / "a.png").exists())
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(out)["verdict"] == "pass" and "Traceback" not in err
    assert recorded(store) == [("a", "pass")]


def test_a_folder_that_does_not_exist_is_told_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(tmp_path / "none"), "--store", str(tmp_path)]) == 2
    assert "expected a folder, found nothing" in capsys.readouterr().err
