"""Ed25519 keys in files: made, loaded, and known by their ids."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from export.runtime.errors import UsageError

_MAX_KEY_BYTES: Final = 64 * 1024


def key_id(public: Ed25519PublicKey) -> str:
    """Return a key's id: the first 16 hex digits of the SHA-256 of its 32 raw bytes."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def public_path(path: Path) -> Path:
    """Return where the public half of the private key at ``path`` lies: the same name and ``.pub``."""
    return path.with_name(path.name + ".pub")


def new_key(path: Path) -> str:
    """Make a key pair, write it to ``path`` (PKCS8 PEM, mode 0600) and ``path``.pub, return its id.

    Raises UsageError where either file exists, since a key overwritten cannot be had back, or where
    the folder cannot be written to.
    """
    private = Ed25519PrivateKey.generate()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write_new(path, secret, mode=0o600)
        try:
            write_public(path, private)
        except BaseException:
            path.unlink()
            raise
    except FileExistsError as error:
        raise UsageError(
            "a key is never written over something else",
            expected="a free path",
            found=f"{error.filename}",
            fix="Name another file, or use the key that is there",
        ) from error
    except OSError as error:
        raise UsageError(f"cannot write the key {path}", found=error.strerror, fix="Name another folder") from error
    return key_id(private.public_key())


def write_public(path: Path, private: Ed25519PrivateKey) -> None:
    """Write the public half of the private key at ``path``; raises OSError, such as where a file is there already."""
    _write_new(public_path(path), public_bytes(private.public_key()), mode=0o644)


def public_bytes(key: Ed25519PublicKey) -> bytes:
    """Return a public key as the content of a ``.pub`` file (SubjectPublicKeyInfo, PEM)."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_private(path: Path) -> Ed25519PrivateKey:
    """Return the private key at ``path``; raises UsageError for anything but an unencrypted Ed25519 PEM."""
    data = _read(path)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _not_a_key(path, "an unencrypted private key (PEM)", data) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _not_a_key(path, "an Ed25519 private key", data)
    return key


def load_trusted(paths: Sequence[Path]) -> Mapping[str, Ed25519PublicKey]:
    """Return the public keys by id, from ``.pub`` files and folders of them.

    Raises UsageError where a path does not exist, holds no key, or holds something else.
    """
    files = [file for path in paths for file in _key_files(path)]
    keys = [_load_public(file) for file in files]
    return {key_id(key): key for key in keys}


def _key_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.pub"))
    if not files:
        raise UsageError(
            f"the folder {path} holds no key",
            expected="public keys (*.pub)",
            found="none",
            fix="Copy the .pub file of the workstation that signs into it",
        )
    return files


def _load_public(path: Path) -> Ed25519PublicKey:
    data = _read(path)
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _not_a_key(path, "a public key (PEM, *.pub)", data) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _not_a_key(path, "an Ed25519 public key", data)
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise UsageError(
            f"cannot read the key {path}",
            found=error.strerror,
            fix="Name a key file that exists and is readable",
        ) from error


def _not_a_key(path: Path, expected: str, data: bytes) -> UsageError:
    header = data.partition(b"\n")[0].strip()
    named = header.startswith(b"-----BEGIN ") and header.endswith(b"-----")
    found = header.strip(b"-").removeprefix(b"BEGIN ").decode("ascii", "replace").lower() if named else "no PEM key"
    return UsageError(
        f"{path} is not the key that is needed here",
        expected=expected,
        found=found,
        fix="The private key signs and stays on the workstation; its .pub file is what a station trusts",
    )


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:  # a full disk, Ctrl-C: half a key would bar the way to a whole one
        path.unlink()
        raise
