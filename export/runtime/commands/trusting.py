"""The command about trust: take a key or a workstation's statement about keys, and list what is trusted."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from export.runtime.commands.common import Commands, say, store_of
from export.runtime.errors import GateError
from export.runtime.files import NotPlainError, TooLargeError, read_plain
from export.runtime.install.state import read_state
from export.runtime.keys import key_id, load_trusted
from export.runtime.statement import RevokedKey, read_records, trusted_by, walk
from export.runtime.strictjson import canonical_bytes
from export.runtime.trust import SIGNATURE_BYTES
from export.runtime.trust_store import by_hand, keep, statement_of, trust_key

_PEM = b"-----BEGIN "
_MOST = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a station trusts, as it is printed; ``trusted`` holds of every key its id, its name and who vouches."""

    sequence: int | None
    issued: str | None
    trusted: tuple[dict[str, str | None], ...]
    revoked: tuple[RevokedKey, ...]
    oldest: dict[str, str]


def add(commands: Commands, keys: argparse.ArgumentParser) -> None:
    """Add trust."""
    trust = commands.add_parser("trust", help="trust a key, take a statement about keys, or list what is trusted")
    trust.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a .pub, or the .trust beside a signing key")
    trust.add_argument("--store", type=Path, help="the station's folder (default: as of every command)")
    trust.add_argument(
        "--stop-current", action="store_true", help="take it though the bundle that runs is then trusted no longer"
    )
    trust.add_argument("--json", action="store_true", help="print what is trusted then as one JSON object")
    trust.set_defaults(run=_trust)


def _trust(options: argparse.Namespace) -> int:
    store = store_of(options)
    told = []
    if options.file is not None:
        told = _take_key(store, options.file) if _is_key(options.file) else _take(store, options)
    listing = _listing(store)
    print(json.dumps(asdict(listing)) if options.json else "\n".join(told or _lines(listing)))
    if listing.trusted:
        say("next: station install BUNDLE")
    else:
        say("next: station trust FILE.pub, with the public key of the workstation that signs")
    return 0


def _is_key(path: Path) -> bool:
    try:
        return read_plain(path, _MOST).startswith(_PEM)
    except (OSError, NotPlainError, TooLargeError):
        return False  # what is wrong with it is told when it is read as a statement


def _take_key(store: Path, path: Path) -> list[str]:
    (key,) = load_trusted([path]).values()
    file = trust_key(store, key)
    return [
        f"key {key_id(key)} is trusted here from now on",
        "compare that id with the one that `factory keys list` shows on the workstation: anyone can make a key,",
        f"and if they differ, remove it: {file}",
    ]


def _take(store: Path, options: argparse.Namespace) -> list[str]:
    records, held = read_records(options.file), statement_of(store)
    if held is not None and records[-1][SIGNATURE_BYTES:] == canonical_bytes(held):
        return [f"statement {held.sequence} is what this station has already"]
    taken = walk(records, held, by_hand(store))
    running = _signer_of_current(store)
    if running is not None and running not in trusted_by(taken, by_hand(store)) and not options.stop_current:
        raise GateError(
            "the bundle that runs here is signed by a key that would be trusted no longer",
            expected="a bundle signed by another key to be installed first",
            found=f"key {running}",
            fix="Install such a bundle, then give this command again; or take the statement all the same "
            "by --stop-current: the station then stands until another bundle is installed",
        )
    keep(store, taken)
    return [
        f"statement {taken.sequence} of {taken.issued} is taken",
        f"trusted: {', '.join(sorted(trusted_by(taken, by_hand(store))))}",
        f"revoked: {', '.join(sorted(taken.revoked_ids)) or 'none'}",
    ]


def _signer_of_current(store: Path) -> str | None:
    """Return the id of the key that signed the bundle installed here, None where none is, or nobody knows which."""
    try:
        current = read_state(store).current
    except (GateError, OSError):  # a damaged record must not keep a revocation out
        return None
    return None if current is None else current.key_id


def _listing(store: Path) -> Listing:
    held, hand = statement_of(store), by_hand(store)
    names = {} if held is None else {key.key_id: key.name for key in held.trusted}
    trusted = tuple(
        {"key_id": name, "name": names.get(name), "by": "statement" if name in names else "hand"}
        for name in sorted(trusted_by(held, hand))
    )
    if held is None:
        return Listing(sequence=None, issued=None, trusted=trusted, revoked=(), oldest={})
    return Listing(
        sequence=held.sequence, issued=held.issued, trusted=trusted, revoked=held.revoked, oldest=held.oldest
    )


def _lines(listing: Listing) -> list[str]:
    last = f"statement {listing.sequence} of {listing.issued}" if listing.sequence else "no statement was taken yet"
    return [
        *(f"{key['key_id']}  trusted by {key['by']}  {key['name'] or ''}".rstrip() for key in listing.trusted),
        *(f"{key.key_id}  revoked on {key.since}: {key.reason}" for key in listing.revoked),
        *(f"line {line}: no bundle made before {created}" for line, created in listing.oldest.items()),
        last,
    ]
