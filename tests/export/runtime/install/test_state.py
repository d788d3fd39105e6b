import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from export.runtime.errors import GateError, UsageError
from export.runtime.install.lock import locked
from export.runtime.install.state import (
    Failure,
    State,
    Version,
    bundle_folder,
    change_state,
    installed,
    now,
    read_state,
    state_file,
)

VERSION = Version(
    bundle="0123456789abcdef",
    line="cells-3",
    created="2025-01-31T12:00:00Z",
    key_id="fedcba9876543210",
    since="2026-01-31T12:00:00Z",
    self_test={"p50_ms": 0.5, "memory_mb": None},
)
FAILURE = Failure(bundle="1" * 16, when="2026-01-31T12:00:00Z", reason="too slow")
STATE = State(
    current=VERSION,
    previous=replace(VERSION, bundle="2" * 16),
    newest={"cells-3": "2025-01-31T12:00:00Z"},
    failures=(FAILURE,),
)


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = tmp_path / "deep" / "store"
    assert read_state(store) == State()
    with pytest.raises(UsageError, match=r"no bundle is installed.*station install BUNDLE"):
        installed(store)
    assert change_state(store, lambda before: STATE) == STATE == read_state(store)
    assert installed(store) == VERSION
    assert STATE.bundles == {VERSION.bundle, "2" * 16}
    assert bundle_folder(store, VERSION.bundle) == store / "bundles" / VERSION.bundle
    assert len(now()) == len(VERSION.since) and now()[10::9] == "TZ"


def test_what_a_change_refuses_stays(tmp_path: Path) -> None:
    change_state(tmp_path, lambda before: STATE)

    def refuse(before: State) -> State:
        raise GateError("no")

    with pytest.raises(GateError, match="no"):
        change_state(tmp_path, refuse)
    assert read_state(tmp_path) == STATE


WHOLE = json.loads(json.dumps({"schema": 1, "current": None, "previous": None, "newest": {}, "failures": []}))
VERSION_JSON = {name: getattr(VERSION, name) for name in VERSION.__dataclass_fields__}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b" " * (1 << 21),
        json.dumps(WHOLE | {"schema": 2}).encode(),
        json.dumps(WHOLE | {"more": 1}).encode(),
        json.dumps({name: value for name, value in WHOLE.items() if name != "newest"}).encode(),
        json.dumps(WHOLE | {"newest": {"cells-3": 1}}).encode(),
        json.dumps(WHOLE | {"current": {"bundle": "x"}}).encode(),
        json.dumps(WHOLE | {"current": VERSION_JSON | {"bundle": "../../elsewhere"}}).encode(),
        json.dumps(WHOLE | {"previous": VERSION_JSON | {"bundle": "0123456789ABCDEF"}}).encode(),
        json.dumps(WHOLE | {"failures": [{}]}).encode(),
        b'{"schema":1,' + json.dumps(WHOLE).encode()[1:],
    ],
)
def test_a_damaged_record_is_one_error_that_says_what_to_do(data: bytes, tmp_path: Path) -> None:
    state_file(tmp_path).write_bytes(data)
    with pytest.raises(GateError, match=r"state\.json is damaged.*Move the file away and install") as told:
        read_state(tmp_path)
    assert told.value.exit_code == 1
    with pytest.raises(GateError, match="is damaged"):
        change_state(tmp_path, lambda before: STATE)
    assert state_file(tmp_path).read_bytes() == data
    state_file(tmp_path).write_text(json.dumps(WHOLE))
    assert read_state(tmp_path) == State()


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "some.lock"
    told = r"somebody is at work: expected the lock .*some\.lock free, found held"
    with locked(path, "me"), pytest.raises(UsageError, match=told), locked(path, "somebody is at work", wait_s=0.05):
        pass
    with locked(path, "somebody is at work"):
        pass


def test_changes_at_once_are_all_made(tmp_path: Path) -> None:
    def add(number: int) -> None:
        failure = replace(FAILURE, reason=str(number))
        change_state(tmp_path, lambda before: replace(before, failures=(*before.failures, failure)))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(failure.reason) for failure in read_state(tmp_path).failures) == list(range(12))
