from pathlib import Path

import pytest

from export.runtime.errors import BundleRefused, GateError, UsageError
from export.runtime.keys import key_id, load_private, load_trusted, new_key, public_path
from export.runtime.statement import RevokedKey, Statement, TrustedKey
from export.runtime.trust_store import keep, oldest_allowed, statement_of, trust_key, trusted_at

TIME = "2025-01-31T12:00:00Z"


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    """Three keys by their ids."""
    return {new_key(tmp_path / name): tmp_path / name for name in "abc"}


def said(trusted: Path, revoked: str, sequence: int = 1) -> Statement:
    public = load_private(trusted).public_key()
    key = TrustedKey(key_id=key_id(public), public=public.public_bytes_raw().hex(), name="W1")
    gone = RevokedKey(key_id=revoked, reason="stolen", since=TIME)
    return Statement(sequence=sequence, issued=TIME, trusted=(key,), revoked=(gone,), oldest={"cells-3": TIME})


def test_trusted_are_the_keys_by_hand_and_of_the_statement_less_those_revoked(
    tmp_path: Path, keys: dict[str, Path]
) -> None:
    a, b, c = keys
    store = tmp_path / "store"
    assert trusted_at(store) == {}
    assert oldest_allowed(store, "cells-3") is None
    for key in load_trusted([public_path(keys[a]), public_path(keys[c])]).values():
        trust_key(store, key)
    assert set(trusted_at(store)) == {a, c}
    keep(store, said(keys[b], revoked=a))
    assert set(trusted_at(store)) == {b, c}
    assert trusted_at(store)[b].public_bytes_raw() == load_private(keys[b]).public_key().public_bytes_raw()
    assert (oldest_allowed(store, "cells-3"), oldest_allowed(store, "steel")) == (TIME, None)


def test_a_revoked_key_is_not_trusted_by_naming_it_either(tmp_path: Path, keys: dict[str, Path]) -> None:
    a, b, c = keys
    keep(tmp_path / "store", said(keys[b], revoked=a))
    assert set(trusted_at(tmp_path / "store", [public_path(keys[a]), public_path(keys[c])])) == {c}
    with pytest.raises(GateError, match=f"every key that was named is revoked.*found {a}"):
        trusted_at(tmp_path / "store", [public_path(keys[a])])
    (public,) = load_trusted([public_path(keys[a])]).values()
    with pytest.raises(GateError, match="was revoked on 2025-01-31T12:00:00Z: found the reason: stolen"):
        trust_key(tmp_path / "store", public)
    assert not (tmp_path / "store" / "trusted").exists()


@pytest.mark.parametrize("change", ["flip", "cut", "empty", "other station", "link", "huge"])
def test_a_statement_changed_in_the_store_is_refused_and_nothing_is_trusted(
    change: str, tmp_path: Path, keys: dict[str, Path]
) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    a, b, _ = keys
    for place in (store, other):
        keep(place, said(keys[b], revoked=a))
    path = store / "trust.signed"
    data = path.read_bytes()
    if change == "link":
        path.rename(store / "away")
        path.symlink_to(store / "away")
    elif change == "huge":
        with path.open("ab") as stream:
            stream.truncate(1 << 40)
    else:
        changed = {"flip": data.replace(b"stolen", b"stolem"), "cut": data[:-1], "empty": b""}
        path.write_bytes(changed.get(change, (other / "trust.signed").read_bytes()))
    for ask in (lambda: trusted_at(store), lambda: trusted_at(store, [public_path(keys[b])])):
        with pytest.raises(BundleRefused, match="was changed, or this station's key did not sign it"):
            ask()
    with pytest.raises(BundleRefused):
        oldest_allowed(store, "cells-3")


def test_a_statement_replaces_the_one_before_it_whole(tmp_path: Path, keys: dict[str, Path]) -> None:
    a, b, c = keys
    first, second = said(keys[b], revoked=a), said(keys[c], revoked=a, sequence=2)
    for statement in (first, second):
        keep(tmp_path, statement)
        assert statement_of(tmp_path) == statement
    assert sorted(path.name for path in tmp_path.iterdir() if "trust" in path.name) == ["trust.signed"]


def test_what_is_no_key_in_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "trusted").mkdir()
    assert trusted_at(tmp_path) == {}
    (tmp_path / "trusted" / "x.pub").write_text("no key")
    with pytest.raises(UsageError, match=r"x\.pub is not the key"):
        trusted_at(tmp_path)
