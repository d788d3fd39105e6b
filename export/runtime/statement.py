"""What a workstation says about keys: which are trusted, which no longer, and how old a bundle may be.

The root metadata of The Update Framework (TUF 1.0, sections 4.3 and 5.3) in miniature: each statement is signed by a
key that the one before it trusts, and a station walks from one to the next. A file holds one record or several, oldest
first, each of SIGNATURE_BYTES and one line of canonical JSON.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from export.runtime.errors import BundleRefused, EnvironmentLacks, UsageError
from export.runtime.files import NotPlainError, TooLargeError, read_plain
from export.runtime.keys import key_id
from export.runtime.strictjson import canonical_bytes, read_json, shape
from export.runtime.trust import SIGNATURE_BYTES, sign, verify

DOMAIN: Final = b"edge-model-factory trust statement v1\n"
WHAT: Final = "trust statement"
SCHEMA: Final = 1
MAX_FILE_BYTES: Final = 1 << 20
_MOST: Final = 1000  # keys, lines and records, each
MAX_TEXT: Final = 200  # characters of a name or a reason
_MAX_SEQUENCE: Final = 2**53
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_KEY_ID: Final = re.compile("[0-9a-f]{16}")
_PUBLIC: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A key that may sign: its id, its 32 raw bytes in lower-case hex, and a name for people."""

    key_id: str
    public: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedKey:
    """A key whose signature counts no longer, why, and since when (UTC)."""

    key_id: str
    reason: str
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement; ``oldest`` maps a line to the time before which none of its bundles may have been made (UTC)."""

    schema: Literal[1] = SCHEMA
    sequence: int
    issued: str
    trusted: tuple[TrustedKey, ...]
    revoked: tuple[RevokedKey, ...]
    oldest: dict[str, str]

    @property
    def keys(self) -> dict[str, Ed25519PublicKey]:
        """The trusted keys by their ids."""
        return {key.key_id: Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public)) for key in self.trusted}

    @property
    def revoked_ids(self) -> frozenset[str]:
        """The ids of the keys revoked."""
        return frozenset(key.key_id for key in self.revoked)


def sign_statement(statement: Statement, private: Ed25519PrivateKey) -> bytes:
    """Return one record: the signature, and the statement in its canonical spelling.

    Raises BundleRefused for a statement that contradicts itself.
    """
    document = canonical_bytes(statement)
    parse_statement(document)
    return sign(document, private, DOMAIN) + document


def read_records(path: Path) -> list[bytes]:
    """Return the records of a file, their signatures not yet verified and nothing parsed.

    Raises UsageError where it cannot be read, BundleRefused for a link, more than MAX_FILE_BYTES, or no whole record.
    """
    try:
        data = read_plain(path, MAX_FILE_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {path}", found=error.strerror, fix="Name a file that exists") from error
    except NotPlainError as error:
        raise BundleRefused(f"{path} {error}", expected="a plain file", fix="Copy it again") from error
    except TooLargeError as error:
        raise BundleRefused(
            f"{path} is too large", expected=f"at most {MAX_FILE_BYTES} bytes", found=f"{error}", fix="Copy it again"
        ) from error
    records = list(_split(data))
    if not records or len(records) > _MOST or b"".join(records) != data:
        raise BundleRefused(
            f"{path} is no whole {WHAT}",
            expected=f"{SIGNATURE_BYTES} bytes of signature and one line, once or several times",
            found=f"{len(data)} bytes that are not",
            fix="Copy it again from beside the signing key",
        )
    return records


def _split(data: bytes) -> Iterator[bytes]:
    start = 0
    while (end := data.find(b"\n", start + SIGNATURE_BYTES)) >= 0:
        yield data[start : end + 1]
        start = end + 1


def parse_statement(document: bytes) -> Statement:
    """Return the statement in ``document``, whose signature must hold already.

    Raises EnvironmentLacks for another schema version, and BundleRefused for anything unknown, missing, of the wrong
    type, not in canonical spelling or contradicting itself.
    """
    value = read_json(document, f"the {WHAT}")
    schema = value.get("schema") if isinstance(value, dict) else None
    if type(schema) is int and schema != SCHEMA:
        raise EnvironmentLacks(
            f"the {WHAT} is of another version",
            expected=f"schema {SCHEMA}",
            found=f"schema {schema}",
            fix="Update the station's software",
        )
    statement = shape(Statement, value, "statement")
    for wrong, problem in _contradictions(statement):
        if wrong:
            raise BundleRefused(f"the {WHAT} contradicts itself: {problem}", fix=_MAKE)
    if canonical_bytes(value) != document:
        raise BundleRefused(f"the {WHAT} is not in canonical spelling", fix=_MAKE)
    return statement


def take(record: bytes, held: Statement | None, by_hand: Mapping[str, Ed25519PublicKey]) -> Statement:
    """Return the statement of a record, if a station that holds ``held`` and trusts ``by_hand`` may take it.

    It must be signed by a key trusted here and revoked neither here nor by itself, be newer, and take nothing back:
    no revocation, no oldest bundle. Raises BundleRefused otherwise, and as ``parse_statement`` does.
    """
    document = record[SIGNATURE_BYTES:]
    signer = verify(document, record[:SIGNATURE_BYTES], trusted_by(held, by_hand), DOMAIN, WHAT)
    new = parse_statement(document)
    if signer in new.revoked_ids:
        raise BundleRefused(f"the {WHAT} revokes the key {signer} that signed it", fix=_MAKE)
    if held is None:
        return new
    if new.sequence <= held.sequence:
        raise BundleRefused(
            f"the {WHAT} is not newer than the one this station has",
            expected=f"a sequence above {held.sequence}",
            found=f"{new.sequence}",
            fix="Carry the present file from beside the signing key",
        )
    back = sorted(held.revoked_ids - new.revoked_ids)
    if back:
        raise BundleRefused(f"the {WHAT} takes revocations back", found=f"nothing about {', '.join(back)}", fix=_MAKE)
    younger = [line for line, created in held.oldest.items() if new.oldest.get(line, "") < created]
    if younger:
        raise BundleRefused(f"the {WHAT} allows older bundles again", found=", ".join(sorted(younger)), fix=_MAKE)
    return new


def walk(records: Sequence[bytes], held: Statement | None, by_hand: Mapping[str, Ed25519PublicKey]) -> Statement:
    """Return the statement of the last record, reached over those before it that a station may take.

    A station that was away while keys were rotated so comes from one key to the next. Raises as ``take`` does for the
    last record; those before it that cannot be taken, such as those it knows, are passed over.
    """
    *links, last = records
    for record in links:
        try:
            held = take(record, held, by_hand)
        except BundleRefused:
            continue
    return take(last, held, by_hand)


def trusted_by(held: Statement | None, by_hand: Mapping[str, Ed25519PublicKey]) -> dict[str, Ed25519PublicKey]:
    """Return the keys trusted by hand and by a statement, less those it revokes."""
    if held is None:
        return dict(by_hand)
    return {name: key for name, key in ({**by_hand, **held.keys}).items() if name not in held.revoked_ids}


_MAKE: Final = "Make it again by `factory keys`"


def _contradictions(s: Statement) -> list[tuple[bool, str]]:
    trusted, times = [key.key_id for key in s.trusted], [s.issued, *s.oldest.values(), *(r.since for r in s.revoked)]
    texts = [*(key.name for key in s.trusted), *s.oldest]
    return [
        (not 1 <= s.sequence <= _MAX_SEQUENCE, "the sequence is no count"),
        (not all(_TIME.fullmatch(time) for time in times), "a time is not in UTC"),
        (max(len(s.trusted), len(s.revoked), len(s.oldest)) > _MOST, f"more than {_MOST} keys or lines"),
        (not all(texts), "a name is empty"),
        (
            not all(text.isprintable() and len(text) <= MAX_TEXT for text in [*texts, *(r.reason for r in s.revoked)]),
            "a name or a reason is too long or holds unprintable characters",
        ),
        (not all(_KEY_ID.fullmatch(name) for name in [*trusted, *s.revoked_ids]), "a key's id is not 16 hex digits"),
        (not all(_is_key(key) for key in s.trusted), "a key and its id do not belong together"),
        (len(set(trusted)) != len(trusted) or len(s.revoked_ids) != len(s.revoked), "a key stands twice"),
        (not trusted, "no key is trusted any more"),
        (not s.revoked_ids.isdisjoint(trusted), "a key is both trusted and revoked"),
    ]


def _is_key(key: TrustedKey) -> bool:
    if not _PUBLIC.fullmatch(key.public):
        return False
    try:
        return key_id(Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public))) == key.key_id
    except (ValueError, UnsupportedAlgorithm):
        return False
