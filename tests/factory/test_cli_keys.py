import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from export.runtime.cli import main as station
from export.runtime.keys import key_id, load_private, load_trusted, new_key, public_path
from export.runtime.statement import read_records, walk
from export.runtime.trust_store import trusted_at
from factory import signing
from tests.mutants import write_bundle
from tests.tiny import factory

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A signing key where the commands look for it."""
    path = tmp_path / "keys" / "signing.key"
    monkeypatch.setenv("FACTORY_KEY", str(path))
    monkeypatch.setenv("STATION_STORE", str(tmp_path / "store"))
    new_key(path)
    return path


def identity(key: Path) -> str:
    return key_id(load_private(key).public_key())


def done(*arguments: object) -> str:
    result = factory("keys", *arguments)
    assert result.exit_code == 0, result.output
    return str(result.output)


def refused(code: int, *arguments: object) -> str:
    result = factory("keys", *arguments)
    assert result.exit_code == code, result.output
    return str(result.output)


def listed(*options: str) -> dict[str, Any]:
    return dict(json.loads(factory("keys", "list", "--json", *options).stdout))


def test_a_key_alone_is_listed_without_a_statement(key: Path) -> None:
    found = {"key_id": identity(key), "name": "signing", "state": "signs", "reason": None}
    assert listed() == {"sequence": 0, "keys": [found]}
    assert f"station trust {key.name}.pub" in done("list")
    assert sorted(path.name for path in key.parent.iterdir()) == ["signing.key", "signing.key.pub"]


def test_a_station_follows_a_rotation_and_a_revocation(key: Path, tmp_path: Path) -> None:
    first, store = identity(key), tmp_path / "store"
    assert station(["trust", str(public_path(key))]) == 0
    said = done("rotate")
    second = identity(key)
    assert second != first and f"key {second} signs from now on" in said
    assert f"next: carry {key}.trust to every station; there: station trust signing.key.trust" in said
    assert load_trusted([public_path(key)]).keys() == {second}
    assert identity(key.with_name(f"signing.key.{first}")) == first
    assert (key.with_name(f"signing.key.{first}").stat().st_mode & 0o777, key.stat().st_mode & 0o777) == (0o600, 0o600)
    assert station(["trust", f"{key}.trust"]) == 0
    assert set(trusted_at(store)) == {first, second}
    assert "is revoked by statement 3" in done("revoke", first, "--reason", "laptop stolen")
    assert [(one["key_id"], one["state"], one["reason"]) for one in listed()["keys"]] == [
        (second, "signs", None),
        (first, "revoked", "laptop stolen"),
    ]
    assert station(["trust", f"{key}.trust"]) == 0
    assert set(trusted_at(store)) == {second}


def test_a_station_that_missed_everything_follows_by_the_last_file_alone(key: Path, tmp_path: Path) -> None:
    assert station(["trust", str(public_path(key))]) == 0
    ids = [identity(key)]
    for _ in range(3):
        done("rotate")
        done("revoke", ids[-1])
        ids.append(identity(key))
    assert len(read_records(signing.statement_path(key))) == 4  # of every key's turn the last
    assert station(["trust", f"{key}.trust"]) == 0
    assert set(trusted_at(tmp_path / "store")) == {ids[-1]}


def test_a_new_station_that_trusts_the_new_key_alone_takes_the_statement_too(key: Path, tmp_path: Path) -> None:
    first = identity(key)
    done("rotate")
    assert station(["trust", str(public_path(key))]) == 0
    assert station(["trust", f"{key}.trust"]) == 0
    assert set(trusted_at(tmp_path / "store")) == {first, identity(key)}


def test_older_bundles_are_forbidden_and_never_allowed_again(key: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", load_private(key))
    assert "are forbidden by statement 1" in done("revoke", "--before", tmp_path / "bundle")
    assert signing.read_statement(key).oldest == {"cells-3": "2025-01-31T12:00:00Z"}
    assert "are forbidden already" in refused(1, "revoke", "--before", tmp_path / "bundle")
    new_key(tmp_path / "stranger")
    write_bundle(tmp_path / "other" / "bundle", load_private(tmp_path / "stranger"))
    assert "signed by a key not trusted here" in refused(1, "revoke", "--before", tmp_path / "other" / "bundle")


def test_what_cannot_be_revoked_is_told(key: Path) -> None:
    assert "factory keys rotate" in refused(2, "revoke", identity(key))
    assert "is no key's id" in refused(2, "revoke", "laptop")
    assert "one thing is revoked at a time" in refused(2, "revoke")
    assert "one thing is revoked at a time" in refused(2, "revoke", "0" * 16, "--before", key)
    done("revoke", "0" * 16)
    assert "is revoked already" in refused(2, "revoke", "0" * 16)
    for reason in ("a\nb", "", "x" * 201):
        assert "that is no reason" in refused(2, "revoke", "1" * 16, "--reason", reason)
    assert signing.read_statement(key).sequence == 1


def test_without_a_key_or_with_another_s_statement_nothing_is_said(key: Path, tmp_path: Path) -> None:
    assert "cannot read the key" in refused(2, "list", "--key", tmp_path / "none")
    done("revoke", "0" * 16)
    new_key(tmp_path / "other")
    signing.statement_path(tmp_path / "other").write_bytes(signing.statement_path(key).read_bytes())
    for command in (["list"], ["rotate"], ["revoke", "1" * 16]):
        assert "does not belong to it" in refused(1, *command, "--key", tmp_path / "other")
    assert not (tmp_path / "other.new").exists()


KILLED = """
import os, sys
from pathlib import Path
from factory import signing

count, at = 0, int(sys.argv[2])
def hook(event, arguments):
    global count
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in ("os.rename", "os.remove", "os.link", "os.mkdir"):
        count += 1
        if count == at:
            os._exit(9)  # as a kill: nothing is cleaned up

sys.addaudithook(hook)
signing.rotate(Path(sys.argv[1]))
"""


def test_a_rotation_killed_at_any_write_leaves_a_key_that_signs_and_is_finished_later(tmp_path: Path) -> None:
    killed = 0
    for at in range(1, 100):
        key = tmp_path / f"{at}" / "signing.key"
        first = new_key(key)
        by_hand = load_trusted([public_path(key)])
        code = subprocess.run([sys.executable, "-c", KILLED, str(key), str(at)], cwd=PROJECT, check=False).returncode
        if code == 0:
            break
        assert code == 9
        killed += 1
        present = identity(key)  # whatever happened, there is a whole key
        if signing.statement_path(key).exists():
            reached = walk(read_records(signing.statement_path(key)), None, by_hand)
            assert {first, present} <= set(reached.keys)
        else:
            assert present == first
        second = signing.rotate(key)
        reached = walk(read_records(signing.statement_path(key)), None, by_hand)
        assert (identity(key), set(reached.keys)) == (second, {first, second})
        assert set(load_trusted([public_path(key)])) == {second}
        assert identity(key.with_name(f"{key.name}.{first}")) == first
        assert not list(key.parent.glob("*.new*"))
        assert signing.known(key)[1][0].key_id == second
    assert killed >= 10


def test_a_rotation_half_done_is_told(key: Path) -> None:
    new_key(key.with_name("signing.key.new"))
    assert "Finish it: factory keys rotate" in refused(2, "revoke", "0" * 16)
    assert listed()["keys"][0]["key_id"] == identity(key)
    done("rotate")
    assert not os.path.lexists(f"{key}.new")
