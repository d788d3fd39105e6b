import errno
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from export.runtime.errors import UsageError
from export.runtime.keys import key_id, load_private, load_trusted, new_key, public_path


def test_a_new_key_is_private_to_its_owner_and_loads_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "line.key"
    identity = new_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert public_path(path) == tmp_path / "deep" / "line.key.pub"
    public = load_private(path).public_key()
    assert key_id(public) == identity
    trusted = load_trusted([public_path(path)])
    assert {name: key.public_bytes_raw() for name, key in trusted.items()} == {identity: public.public_bytes_raw()}


@pytest.mark.parametrize("there", ["key", "key.pub"])
def test_a_key_is_never_overwritten_and_none_is_left_by_half(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(UsageError, match="never written over"):
        new_key(tmp_path / "key")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


@pytest.mark.parametrize("full_at", [1, 2])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_half_a_key_is_not_left_to_bar_the_way(
    full_at: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def flush(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == full_at:
            raise error

    monkeypatch.setattr(os, "fsync", flush)
    with pytest.raises((UsageError, KeyboardInterrupt), match=r"No space left|^$"):
        new_key(tmp_path / "key")
    assert list(tmp_path.iterdir()) == []
    assert new_key(tmp_path / "key") in load_trusted([tmp_path])


def test_a_folder_is_all_its_public_keys(tmp_path: Path) -> None:
    identities = {new_key(tmp_path / name) for name in ("a", "b")}
    assert set(load_trusted([tmp_path])) == identities
    assert set(load_trusted([tmp_path / "a.pub", tmp_path])) == identities


def test_what_is_no_trusted_key_is_refused_by_name(tmp_path: Path) -> None:
    new_key(tmp_path / "key")
    (tmp_path / "text.pub").write_text("ssh-ed25519 AAAA")
    (tmp_path / "empty").mkdir()
    elliptic = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "ec.pub").write_bytes(elliptic.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for name, said in (
        ("key", "found private key"),
        ("text.pub", "found no PEM key"),
        ("ec.pub", "expected an Ed25519 public key"),
        ("empty", "holds no key"),
        ("missing.pub", "cannot read the key"),
    ):
        with pytest.raises(UsageError, match=said) as error:
            load_trusted([tmp_path / name])
        assert name in str(error.value)


def test_what_is_no_private_key_is_refused_by_name(tmp_path: Path) -> None:
    new_key(tmp_path / "key")
    locked = ed25519.Ed25519PrivateKey.generate()
    encryption = BestAvailableEncryption(b"secret")
    (tmp_path / "locked").write_bytes(locked.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    elliptic = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ec").write_bytes(elliptic.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for name, said in (
        ("key.pub", "found public key"),
        ("locked", "found encrypted private key"),
        ("ec", "expected an Ed25519 private key"),
        ("missing", "cannot read the key"),
    ):
        with pytest.raises(UsageError, match=said):
            load_private(tmp_path / name)
