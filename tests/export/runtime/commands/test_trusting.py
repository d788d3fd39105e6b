import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.runtime.cli import main
from export.runtime.install.state import Version, change_state
from export.runtime.keys import key_id, load_private, new_key, public_path
from export.runtime.statement import RevokedKey, Statement, TrustedKey, sign_statement

Said = Callable[..., tuple[int, str, str]]
TIME = "2025-01-31T12:00:00Z"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATION_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def station(store: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def identity(key: Path) -> str:
    return key_id(load_private(key).public_key())


def statement(path: Path, signer: Path, *trusted: Path, sequence: int = 1, revoked: tuple[str, ...] = ()) -> Path:
    keys = [(name, load_private(name).public_key()) for name in trusted]
    said = Statement(
        sequence=sequence,
        issued=TIME,
        trusted=tuple(
            TrustedKey(key_id=key_id(key), public=key.public_bytes_raw().hex(), name=name.name) for name, key in keys
        ),
        revoked=tuple(RevokedKey(key_id=one, reason="stolen", since=TIME) for one in revoked),
        oldest={"cells-3": TIME},
    )
    path.write_bytes(sign_statement(said, load_private(signer)))
    return path


def test_the_first_key_is_trusted_by_hand_and_its_id_shown(
    station: Said, store: Path, bundle: Path, key: Path, trust: list[Path]
) -> None:
    code, out, err = station("verify", bundle)
    assert code == 2
    assert "this station trusts no key yet" in err and "station trust FILE" in err
    code, out, err = station("trust", trust[0])
    assert (code, err) == (0, "next: station install BUNDLE\n")
    assert f"key {identity(key)} is trusted here from now on" in out and "compare that id" in out
    assert [path.name for path in (store / "trusted").iterdir()] == [f"{identity(key)}.pub"]
    assert station("verify", bundle)[0] == 0
    assert station("trust", trust[0])[0] == 0


def test_what_is_trusted_and_revoked_is_listed(station: Said, key: Path, trust: list[Path], tmp_path: Path) -> None:
    code, out, err = station("trust")
    assert (code, out, err.startswith("next: station trust FILE.pub")) == (0, "no statement was taken yet\n", True)
    new_key(tmp_path / "next")
    station("trust", trust[0])
    code, out, _ = station("trust", statement(tmp_path / "s", key, tmp_path / "next", revoked=("0" * 16,)))
    assert code == 0
    assert "statement 1 of 2025-01-31T12:00:00Z is taken" in out
    lines = station("trust")[1].splitlines()
    own, other = identity(key), identity(tmp_path / "next")
    assert {f"{own}  trusted by hand", f"{other}  trusted by statement  next"} <= set(lines)
    assert f"{'0' * 16}  revoked on {TIME}: stolen" in lines
    assert f"line cells-3: no bundle made before {TIME}" in lines
    listing: dict[str, Any] = json.loads(station("trust", "--json")[1])
    assert (listing["sequence"], listing["oldest"]) == (1, {"cells-3": TIME})
    assert {one["key_id"]: one["by"] for one in listing["trusted"]} == {own: "hand", other: "statement"}
    assert listing["revoked"] == [{"key_id": "0" * 16, "reason": "stolen", "since": TIME}]


def test_the_same_statement_again_changes_nothing_and_a_stranger_s_is_refused(
    station: Said, store: Path, key: Path, trust: list[Path], tmp_path: Path
) -> None:
    new_key(tmp_path / "stranger")
    station("trust", trust[0])
    own = statement(tmp_path / "s", key, key)
    station("trust", own)
    before = (store / "trust.signed").read_bytes()
    code, out, _ = station("trust", own)
    assert (code, out) == (0, "statement 1 is what this station has already\n")
    code, out, err = station("trust", statement(tmp_path / "t", tmp_path / "stranger", tmp_path / "stranger"))
    assert (code, out) == (1, "")
    assert "the trust statement is signed by a key not trusted here" in err
    assert (store / "trust.signed").read_bytes() == before


def test_a_bundle_of_a_revoked_key_is_refused_however_the_key_is_named(
    station: Said, bundle: Path, key: Path, trust: list[Path], tmp_path: Path
) -> None:
    new_key(tmp_path / "next")
    station("trust", trust[0])
    station("trust", statement(tmp_path / "s", key, key, tmp_path / "next"))
    assert station("verify", bundle)[0] == 0
    later = statement(tmp_path / "s", tmp_path / "next", tmp_path / "next", sequence=2, revoked=(identity(key),))
    assert station("trust", later)[0] == 0
    code, _, err = station("verify", bundle)
    assert (code, "signed by a key not trusted here" in err) == (1, True)
    code, _, err = station("verify", bundle, "--trust", trust[0])
    assert (code, "every key that was named is revoked" in err) == (1, True)
    code, _, err = station("trust", trust[0])
    assert (code, "was revoked on" in err) == (1, True)


def test_a_statement_does_not_stop_what_runs_unless_it_is_told_to(
    station: Said, store: Path, key: Path, trust: list[Path], tmp_path: Path
) -> None:
    new_key(tmp_path / "next")
    station("trust", trust[0])
    station("trust", statement(tmp_path / "s", key, key, tmp_path / "next"))
    runs(store, identity(key))
    later = statement(tmp_path / "s", tmp_path / "next", tmp_path / "next", sequence=2, revoked=(identity(key),))
    code, out, err = station("trust", later)
    assert (code, out) == (1, "")
    assert f"found key {identity(key)}" in err and "--stop-current" in err
    assert json.loads(station("trust", "--json")[1])["sequence"] == 1
    assert station("trust", later, "--stop-current")[0] == 0
    assert json.loads(station("trust", "--json")[1])["sequence"] == 2


@pytest.mark.parametrize("state", [None, b"", b"[]", b'{"current": {"key_id": "0000000000000000"}}'])
def test_nothing_installed_and_a_damaged_record_keep_no_statement_out(
    state: bytes | None, station: Said, store: Path, key: Path, trust: list[Path], tmp_path: Path
) -> None:
    station("trust", trust[0])
    if state is not None:
        (store / "state.json").write_bytes(state)
    assert station("trust", statement(tmp_path / "s", key, key))[0] == 0


def runs(store: Path, key_id: str) -> None:
    """Write down that a bundle signed by that key is installed."""
    version = Version(bundle="0" * 16, line="cells-3", created=TIME, key_id=key_id, since=TIME, self_test={})
    change_state(store, lambda state: replace(state, current=version))


def test_what_is_neither_a_key_nor_a_statement_is_told(station: Said, key: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for path, code, said in (
        (tmp_path / "text", 1, "is no whole trust statement"),
        (tmp_path / "missing", 2, "cannot read"),
        (tmp_path, 1, "is not a plain file"),
        (key, 2, "found private key"),
    ):
        found, out, err = station("trust", path)
        assert (found, out) == (code, "")
        assert said in err


def test_public_half_alone_is_kept(station: Said, store: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "odd name.pub").write_bytes(public_path(key).read_bytes() + b"anything behind it\n")
    assert station("trust", tmp_path / "odd name.pub")[0] == 0
    assert (store / "trusted" / f"{identity(key)}.pub").read_bytes() == public_path(key).read_bytes()
