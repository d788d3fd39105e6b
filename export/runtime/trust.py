"""Who signed a bundle, or another document of ours, and whether it still is what was signed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from export.runtime.contents import MANIFEST_NAME, SIGNATURE_NAME, check_paths, read_contents
from export.runtime.errors import BundleRefused
from export.runtime.files import NotPlainError, TooLargeError, read_plain
from export.runtime.keys import key_id, load_private, load_trusted, new_key, public_path
from export.runtime.manifest import Manifest, parse_manifest

__all__ = [
    "SIGNATURE_BYTES",
    "VerifiedBundle",
    "key_id",
    "load_private",
    "load_trusted",
    "new_key",
    "public_path",
    "read_signed_manifest",
    "sign",
    "sign_bundle",
    "verify",
    "verify_bundle",
]

DOMAIN: Final = b"edge-model-factory bundle manifest v1\n"
MAX_MANIFEST_BYTES: Final = 4 << 20
_ED25519_BYTES: Final = 64
SIGNATURE_BYTES: Final = _ED25519_BYTES + 8  # of which the last 8 are the key's id


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """A bundle whose signature and every hash held, with the very bytes that were hashed.

    ``contents`` holds each file but the manifest and its signature, by its path in the bundle. Use
    these bytes and not the disk's, which may change after the check.
    """

    manifest: Manifest
    manifest_bytes: bytes
    signature: bytes
    key_id: str
    folder: Path
    contents: Mapping[str, bytes]


def sign(data: bytes, private: Ed25519PrivateKey, domain: bytes) -> bytes:
    """Return SIGNATURE_BYTES: the signature over ``domain`` and ``data``, and the key's id.

    Every kind of document has a domain of its own, so that none can be passed off as another.
    """
    return private.sign(domain + data) + bytes.fromhex(key_id(private.public_key()))


def verify(data: bytes, signature: bytes, trusted: Mapping[str, Ed25519PublicKey], domain: bytes, what: str) -> str:
    """Return the id of the trusted key that signed ``data`` of that ``domain`` by ``sign``.

    Raises BundleRefused, calling the data ``what``, for a signature cut short, a key not trusted, or bytes changed.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise BundleRefused(
            f"the signature of the {what} is cut short",
            expected=f"{SIGNATURE_BYTES} bytes",
            found=f"{len(signature)}",
            fix=_copy(what),
        )
    identity = signature[_ED25519_BYTES:].hex()
    if identity not in trusted:
        raise BundleRefused(
            f"the {what} is signed by a key not trusted here",
            expected=f"one of {', '.join(sorted(trusted)) or 'none'}",
            found=identity,
            fix=f"If that key belongs to who made the {what}, trust its .pub file",
        )
    try:
        trusted[identity].verify(signature[:_ED25519_BYTES], domain + data)
    except InvalidSignature as error:
        raise BundleRefused(
            f"the {what} or its signature was changed after signing",
            expected=f"a signature by key {identity} over these bytes",
            found="one that does not match",
            fix=_copy(what),
        ) from error
    return identity


def sign_bundle(folder: Path, private: Ed25519PrivateKey) -> None:
    """Write manifest.sig beside the manifest in ``folder``: 64 bytes of signature, 8 of the key's id."""
    manifest = (folder / MANIFEST_NAME).read_bytes()
    (folder / SIGNATURE_NAME).write_bytes(sign(manifest, private, DOMAIN))


def read_signed_manifest(
    folder: Path, trusted: Mapping[str, Ed25519PublicKey], domain: bytes = DOMAIN, what: str = "bundle"
) -> tuple[bytes, str]:
    """Return the manifest's bytes, not yet parsed, of a signed folder, and the id of the trusted key that signed them.

    Raises BundleRefused, calling the folder ``what``, unless both files are there and the signature holds.
    """
    manifest, signature = _read_signed(folder, what)
    return manifest, verify(manifest, signature, trusted, domain, what)


def _read_signed(folder: Path, what: str) -> tuple[bytes, bytes]:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise BundleRefused(f"no {what} at {folder}", expected=f"a {what} folder", found=found, fix="Check the path")
    return (
        _read(folder, MANIFEST_NAME, MAX_MANIFEST_BYTES, what),
        _read(folder, SIGNATURE_NAME, SIGNATURE_BYTES, what),
    )


def verify_bundle(folder: Path, trusted: Mapping[str, Ed25519PublicKey]) -> VerifiedBundle:
    """Return the bundle in ``folder``, every byte of it vouched for by one of the trusted keys.

    Nothing is parsed before the signature over it, or its hash in the signed manifest, holds.

    Raises BundleRefused naming the first thing wrong, in this order: the folder, the manifest and its
    signature, the signing key, the manifest's content, its paths, the files present, their sizes and
    hashes. Raises EnvironmentLacks for a manifest of another schema version.
    """
    try:
        return _verify(folder, trusted)
    except OSError as error:
        raise unreadable(error, "bundle") from error


def unreadable(error: OSError, what: str) -> BundleRefused:
    """Return the refusal of a signed folder or file that the system would not read."""
    return BundleRefused(
        f"cannot read {error.filename}",
        found=error.strerror,
        fix=f"Check the permissions and copy the {what} again",
    )


def _verify(folder: Path, trusted: Mapping[str, Ed25519PublicKey]) -> VerifiedBundle:
    manifest_bytes, signature = _read_signed(folder, "bundle")
    signer = verify(manifest_bytes, signature, trusted, DOMAIN, "bundle")
    manifest = parse_manifest(manifest_bytes)
    check_signer(manifest.signer.key_id, signer)
    check_paths(entry.path for entry in manifest.files)
    contents = read_contents(folder, manifest.files)
    return VerifiedBundle(manifest, manifest_bytes, signature, signer, folder, contents)


def check_signer(named: str, signer: str) -> None:
    """Raise BundleRefused unless a document names the key that signed it."""
    if named != signer:
        raise BundleRefused("the manifest names another signer", expected=signer, found=named, fix="Sign it again")


def _read(folder: Path, name: str, limit: int, what: str) -> bytes:
    path = folder / name
    try:
        return read_plain(path, limit)
    except FileNotFoundError as error:
        lack = "is not signed" if name == SIGNATURE_NAME else "has no manifest"
        raise BundleRefused(
            f"the {what} {lack}",
            expected=name,
            found="no such file",
            fix=f"Copy the whole {what} folder again",
        ) from error
    except NotPlainError as error:
        raise BundleRefused(f"{name} {error}", expected="a plain file", fix="Copy it again") from error
    except TooLargeError as error:
        raise BundleRefused(
            f"{name} is too large",
            expected=f"at most {limit} bytes",
            found=f"{error}",
            fix=f"Build the {what} again",
        ) from error


def _copy(what: str) -> str:
    return f"Copy the {what} again from where it was built"
