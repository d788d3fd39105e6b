"""Which keys a station trusts: those put into its store by hand and those of the last statement, less those revoked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.errors import BundleRefused, GateError
from export.runtime.files import NotPlainError, TooLargeError, read_plain, write_atomic
from export.runtime.keys import key_id, load_trusted, public_bytes
from export.runtime.statement import MAX_FILE_BYTES, Statement, parse_statement, trusted_by
from export.runtime.station_key import station_key
from export.runtime.strictjson import canonical_bytes

DOMAIN: Final = b"edge-model-factory station trust v1\n"
NAME: Final = "trust.signed"
_SIGNATURE_BYTES: Final = 64


def trusted_folder(store: Path) -> Path:
    """Return where the keys that were trusted by hand lie."""
    return store / "trusted"


def trusted_at(store: Path, named: Sequence[Path] = ()) -> Mapping[str, Ed25519PublicKey]:
    """Return the public keys by id that a station trusts, which may be none.

    Those ``named``, files or folders of ``.pub``; without any, those in the store and those of the last statement. Keys
    revoked by that statement are left out of both.

    Raises GateError where every key named is revoked, BundleRefused where the store's statement was changed, and
    UsageError as ``load_trusted`` does.
    """
    held = statement_of(store)
    if not named:
        return trusted_by(held, by_hand(store))
    keys = load_trusted(named)
    revoked = frozenset() if held is None else held.revoked_ids
    left = {name: key for name, key in keys.items() if name not in revoked}
    if not left:
        raise GateError(
            "every key that was named is revoked",
            expected="one that is not",
            found=", ".join(sorted(keys)),
            fix="See `station trust` for the reason, and ask for a bundle signed by the present key",
        )
    return left


def oldest_allowed(store: Path, line: str) -> str | None:
    """Return the time (UTC) before which no bundle of the line that is installed may have been made, None for any.

    Raises BundleRefused where the store's statement was changed.
    """
    held = statement_of(store)
    return None if held is None else held.oldest.get(line)


def by_hand(store: Path) -> Mapping[str, Ed25519PublicKey]:
    """Return the keys put into the store by hand, revoked or not; raises UsageError as ``load_trusted`` does."""
    folder = trusted_folder(store)
    return load_trusted([folder]) if any(folder.glob("*.pub")) else {}


def trust_key(store: Path, key: Ed25519PublicKey) -> Path:
    """Put a key into the store, as trusted by hand; returns its file.

    Raises GateError for a key that was revoked, BundleRefused as ``statement_of`` does, and OSError.
    """
    identity, held = key_id(key), statement_of(store)
    for revoked in () if held is None else held.revoked:
        if revoked.key_id == identity:
            raise GateError(
                f"the key {identity} was revoked on {revoked.since}",
                found=f"the reason: {revoked.reason}",
                fix="Ask for the key that signs now",
            )
    path = trusted_folder(store) / f"{identity}.pub"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, public_bytes(key))
    return path


def keep(store: Path, statement: Statement) -> None:
    """Keep a statement that was taken, signed by the station's own key: its signer may be gone tomorrow."""
    store.mkdir(parents=True, exist_ok=True)
    document = canonical_bytes(statement)
    write_atomic(store / NAME, station_key(store).sign(DOMAIN + document) + document)


def statement_of(store: Path) -> Statement | None:
    """Return the statement this station took last, None where it took none.

    Raises BundleRefused where it is not exactly what this station's key signed.
    """
    path = store / NAME
    try:
        data = read_plain(path, MAX_FILE_BYTES + _SIGNATURE_BYTES)
    except FileNotFoundError:
        return None
    except (NotPlainError, TooLargeError) as error:
        raise _changed(path, f"one that {error}" if isinstance(error, NotPlainError) else f"{error} bytes") from error
    document = data[_SIGNATURE_BYTES:]
    try:
        station_key(store).public_key().verify(data[:_SIGNATURE_BYTES], DOMAIN + document)
    except InvalidSignature as error:
        raise _changed(path, "one that does not match") from error
    return parse_statement(document)


def _changed(path: Path, found: str) -> BundleRefused:
    return BundleRefused(
        f"{path} was changed, or this station's key did not sign it",
        expected="a signature by the station's key over this statement",
        found=found,
        fix="Find out who was here; then remove that file and give the newest statement to `station trust` again",
    )
