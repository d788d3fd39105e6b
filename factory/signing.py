"""The keys of a workstation: the one that signs, those before it, and what it says about them to the stations.

Beside the signing key KEY lie its public half KEY.pub, the statement KEY.trust, and of each key before it KEY.<id> and
KEY.<id>.pub. A key on its way in is KEY.new until it signs.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from export.runtime.errors import BundleRefused, GateError, UsageError
from export.runtime.files import write_atomic
from export.runtime.keys import key_id, load_private, new_key, public_bytes, public_path
from export.runtime.manifest import parse_manifest
from export.runtime.statement import (
    DOMAIN,
    MAX_TEXT,
    WHAT,
    RevokedKey,
    Statement,
    TrustedKey,
    parse_statement,
    read_records,
    sign_statement,
)
from export.runtime.trust import SIGNATURE_BYTES, read_signed_manifest, verify


@dataclass(frozen=True, slots=True)
class Known:
    """A key that the workstation knows; ``name`` is None where only the id is left."""

    key_id: str
    name: str | None
    state: Literal["signs", "trusted", "revoked"]
    reason: str | None = None


def statement_path(key: Path) -> Path:
    """Where the statement of the signing key at `key` lies."""
    return key.with_name(f"{key.name}.trust")


def known(key: Path) -> tuple[int, list[Known]]:
    """Return the sequence of the last statement (0 before the first) and every key, the one that signs first.

    Raises:
        UsageError: without a signing key.
        BundleRefused: where the statement is not what it signed.
    """
    statement, present = read_statement(key), key_id(load_private(key).public_key())
    trusted = [Known(k.key_id, k.name, "signs" if k.key_id == present else "trusted") for k in statement.trusted]
    revoked = [Known(k.key_id, None, "revoked", k.reason) for k in statement.revoked]
    return statement.sequence, sorted(trusted, key=lambda k: k.state != "signs") + revoked


def read_statement(key: Path) -> Statement:
    """Return what the workstation says at present; before the first statement, that it trusts its own key.

    Raises:
        UsageError: without a signing key.
        BundleRefused: where the statement is not what it signed.
    """
    private = load_private(key)
    if not statement_path(key).exists():
        own = _described(key.stem, private.public_key())
        return Statement(sequence=0, issued=_now(), trusted=(own,), revoked=(), oldest={})
    last = read_records(statement_path(key))[-1]
    return parse_statement(_verified(last, [private, *_pending(key)]))


def rotate(key: Path) -> str:
    """Make a key that signs from now on, and return its id; the one before stays trusted, and is kept aside.

    The statement is signed by both, so that stations come from the one key to the other. A kill at any point leaves a
    key that signs; the same call then goes on from there.

    Raises:
        UsageError: without a signing key, or where nothing can be written.
        BundleRefused: where the statement is not what it signed.
    """
    fresh = key.with_name(f"{key.name}.new")
    if fresh.exists() or not public_path(fresh).exists():  # else only the last step below is left
        old, statement = load_private(key), read_statement(key)
        new = _fresh(fresh)
        if key_id(new.public_key()) not in statement.keys:
            both = (*statement.trusted, _described(key.stem, new.public_key()))
            linked = replace(statement, sequence=statement.sequence + 1, issued=_now(), trusted=both)
            _append(key, [(linked, old), (replace(linked, sequence=linked.sequence + 1), new)])
        aside = key.with_name(f"{key.name}.{key_id(old.public_key())}")
        _copy_key(old, key, aside)
        fresh.replace(key)
    public_path(fresh).replace(public_path(key))
    return key_id(load_private(key).public_key())


def revoke(key: Path, identity: str, reason: str) -> Statement:
    """Say that a key is trusted no longer, and return the statement.

    Raises:
        UsageError: without a signing key, for what is no key's id or no reason, for the key that signs, or a rotation
            half done.
        BundleRefused: where the statement is not what it signed.
    """
    private, statement = _present(key)
    if not re.fullmatch("[0-9a-f]{16}", identity):
        raise UsageError("that is no key's id", expected="16 hex digits", found=identity, fix="See `factory keys list`")
    if identity == key_id(private.public_key()):
        raise UsageError(
            f"the key {identity} is the one that signs",
            expected="another key",
            found="the present one",
            fix="Give it up by `factory keys rotate` first; then revoke it",
        )
    if not reason.isprintable() or not 0 < len(reason) <= MAX_TEXT:
        raise UsageError("that is no reason", expected=f"one line of at most {MAX_TEXT} characters", fix="Shorten it")
    if identity in statement.revoked_ids:
        raise UsageError(f"the key {identity} is revoked already", fix="Carry the statement to the stations")
    return _say(key, private, replace(
        statement,
        trusted=tuple(k for k in statement.trusted if k.key_id != identity),
        revoked=(*statement.revoked, RevokedKey(key_id=identity, reason=reason, since=_now())),
    ))  # fmt: skip


def revoke_before(key: Path, bundle: Path) -> Statement:
    """Say that no bundle of that one's line made before it may be installed any more, and return the statement.

    Raises:
        UsageError: without a signing key, or for a rotation half done.
        GateError: where such a bundle is forbidden already.
        BundleRefused: for a bundle or a statement that is not signed by a key of this workstation.
    """
    private, statement = _present(key)
    manifest = parse_manifest(read_signed_manifest(bundle, statement.keys)[0])
    before = statement.oldest.get(manifest.line, "")
    if manifest.created <= before:
        raise GateError(
            f"bundles of the line {manifest.line} made before {before} are forbidden already",
            expected="a bundle made later",
            found=f"one of {manifest.created}",
            fix="Name a newer bundle; what was forbidden stays so",
        )
    return _say(key, private, replace(statement, oldest={**statement.oldest, manifest.line: manifest.created}))


def _present(key: Path) -> tuple[Ed25519PrivateKey, Statement]:
    if _pending(key):
        raise UsageError(
            "a rotation was stopped half-way",
            expected="one key",
            found=f"a second one, {key.name}.new",
            fix="Finish it: factory keys rotate",
        )
    return load_private(key), read_statement(key)


def _pending(key: Path) -> list[Ed25519PrivateKey]:
    with suppress(UsageError):  # there is none, or it was not yet written whole
        return [load_private(key.with_name(f"{key.name}.new"))]
    return []


def _fresh(path: Path) -> Ed25519PrivateKey:
    """Return the key at `path`, made unless it is there whole."""
    try:
        private = load_private(path)
    except UsageError:
        path.unlink(missing_ok=True)  # half a key, which has signed nothing
        public_path(path).unlink(missing_ok=True)
        new_key(path)
        return load_private(path)
    write_atomic(public_path(path), public_bytes(private.public_key()))
    return private


def _copy_key(private: Ed25519PrivateKey, key: Path, aside: Path) -> None:
    if not aside.exists():
        beside = aside.with_name(f"{aside.name}.partial")
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(key.read_bytes())
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(aside)
    write_atomic(public_path(aside), public_bytes(private.public_key()))


def _say(key: Path, private: Ed25519PrivateKey, statement: Statement) -> Statement:
    said = replace(statement, sequence=statement.sequence + 1, issued=_now())
    _append(key, [(said, private)])
    return said


def _append(key: Path, said: Iterable[tuple[Statement, Ed25519PrivateKey]]) -> None:
    """Write the file anew: of every key's turn the last statement, which says all that those before it said."""
    path = statement_path(key)
    records = read_records(path) if path.exists() else []
    for statement, private in said:
        record = sign_statement(statement, private)
        if records and _signer(records[-1]) == _signer(record):
            records.pop()
        records.append(record)
    write_atomic(path, b"".join(records))


def _signer(record: bytes) -> bytes:
    return record[SIGNATURE_BYTES - 8 : SIGNATURE_BYTES]


def _verified(record: bytes, privates: Iterable[Ed25519PrivateKey]) -> bytes:
    keys: list[Ed25519PublicKey] = [private.public_key() for private in privates]
    document = record[SIGNATURE_BYTES:]
    try:
        verify(document, record[:SIGNATURE_BYTES], {key_id(k): k for k in keys}, DOMAIN, WHAT)
    except BundleRefused as error:
        raise BundleRefused(
            f"the {WHAT} beside the signing key does not belong to it",
            expected=error.expected,
            found=error.found,
            fix="Put the file back that belongs to this key: the stations know its revocations",
        ) from error
    return document


def _described(name: str, public: Ed25519PublicKey) -> TrustedKey:
    return TrustedKey(key_id=key_id(public), public=public.public_bytes_raw().hex(), name=name)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
