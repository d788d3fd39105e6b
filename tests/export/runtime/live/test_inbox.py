import os
from pathlib import Path

import pytest

from export.runtime.live import inbox as module
from export.runtime.live.inbox import Inbox


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def names(inbox: Inbox) -> list[str]:
    return [arrival.path.name for arrival in inbox.arrivals()]


def test_a_file_is_taken_once_it_has_not_changed_for_a_while(tmp_path: Path, clock: list[float]) -> None:
    inbox = Inbox(tmp_path, 0.05, 2.0)
    (tmp_path / "a.png").write_bytes(b"half")
    assert names(inbox) == []
    clock[0] += 0.04
    (tmp_path / "a.png").write_bytes(b"half and more")
    assert names(inbox) == []
    clock[0] += 0.04
    assert names(inbox) == []
    clock[0] += 0.02
    assert names(inbox) == ["a.png"]


def test_a_file_is_told_until_it_is_done_and_again_once_it_is_another(tmp_path: Path, clock: list[float]) -> None:
    inbox = Inbox(tmp_path, 0.0, 2.0)
    (tmp_path / "a.png").write_bytes(b"one")
    first = list(inbox.arrivals())
    assert [arrival.waited for arrival in first] == [False]
    clock[0] += 2.1
    (again,) = inbox.arrivals()
    assert (again.source, again.waited) == (first[0].source, True)
    inbox.done(again)
    assert names(inbox) == []
    (tmp_path / "a.png").write_bytes(b"another part of the same name")
    (other,) = inbox.arrivals()
    assert other.source != again.source and not other.waited


def test_the_oldest_comes_first_and_what_is_no_picture_never(tmp_path: Path, clock: list[float]) -> None:
    for name, at in (("b.png", 10), ("a.jpg", 20), ("c.PNG", 5), (".a.png", 1), ("notes.txt", 1), ("x.png.part", 1)):
        (tmp_path / name).write_bytes(b"1")
        os.utime(tmp_path / name, (at, at))
    (tmp_path / "deep.png").mkdir()
    assert names(Inbox(tmp_path, 0.0, 2.0)) == ["c.PNG", "b.png", "a.jpg"]


def test_files_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, 0.0, 2.0)
    for number in range(50):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"1")
        (arrival,) = inbox.arrivals()
        inbox.done(arrival)
        path.unlink()
    assert names(inbox) == [] and not inbox._seen


def test_a_folder_that_is_gone_is_an_error_and_no_end(tmp_path: Path) -> None:
    folder = tmp_path / "camera"
    inbox = Inbox(folder, 0.0, 2.0)
    with pytest.raises(OSError, match="No such file"):
        names(inbox)
    folder.mkdir()
    (folder / "a.png").write_bytes(b"1")
    assert names(inbox) == ["a.png"]
