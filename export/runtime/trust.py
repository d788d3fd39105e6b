"""Who signed a bundle, and whether it still is what was signed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from export.runtime.contents import MANIFEST_NAME, SIGNATURE_NAME, check_paths, read_contents
from export.runtime.errors import BundleRefused
from export.runtime.keys import key_id, load_private, load_trusted, new_key, public_path
from export.runtime.manifest import Manifest, parse_manifest

__all__ = [
    "VerifiedBundle",
    "key_id",
    "load_private",
    "load_trusted",
    "new_key",
    "public_path",
    "sign_bundle",
    "verify_bundle",
]

DOMAIN: Final = b"edge-model-factory bundle manifest v1\n"
MAX_MANIFEST_BYTES: Final = 4 << 20
_SIGNATURE_BYTES: Final = 64
_KEY_ID_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """A bundle whose signature and every hash held, with the very bytes that were hashed.

    ``contents`` holds each file but the manifest and its signature, by its path in the bundle. Use
    these bytes and not the disk's, which may change after the check.
    """

    manifest: Manifest
    manifest_bytes: bytes
    key_id: str
    folder: Path
    contents: Mapping[str, bytes]


def sign_bundle(folder: Path, private: Ed25519PrivateKey) -> None:
    """Write manifest.sig beside the manifest in ``folder``: 64 bytes of signature, 8 of the key's id."""
    manifest = (folder / MANIFEST_NAME).read_bytes()
    identity = bytes.fromhex(key_id(private.public_key()))
    (folder / SIGNATURE_NAME).write_bytes(private.sign(DOMAIN + manifest) + identity)


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
        raise BundleRefused(
            f"cannot read {error.filename}",
            found=error.strerror,
            fix="Check the permissions and copy the bundle again",
        ) from error


def _verify(folder: Path, trusted: Mapping[str, Ed25519PublicKey]) -> VerifiedBundle:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise BundleRefused(f"no bundle at {folder}", expected="a bundle folder", found=found, fix="Check the path")
    manifest_bytes = _read(folder, MANIFEST_NAME, MAX_MANIFEST_BYTES)
    signature = _read(folder, SIGNATURE_NAME, _SIGNATURE_BYTES + _KEY_ID_BYTES)
    signer = _signer(manifest_bytes, signature, trusted)
    manifest = parse_manifest(manifest_bytes)
    if manifest.signer.key_id != signer:
        raise BundleRefused(
            "the manifest names another signer",
            expected=signer,
            found=manifest.signer.key_id,
            fix="Sign it again",
        )
    check_paths(entry.path for entry in manifest.files)
    return VerifiedBundle(manifest, manifest_bytes, signer, folder, read_contents(folder, manifest.files))


def _read(folder: Path, name: str, limit: int) -> bytes:
    path = folder / name
    if not path.exists() and not path.is_symlink():
        what = "is not signed" if name == SIGNATURE_NAME else "has no manifest"
        raise BundleRefused(
            f"the bundle {what}",
            expected=name,
            found="no such file",
            fix="Copy the whole bundle folder again",
        )
    if path.is_symlink() or not path.is_file():
        raise BundleRefused(f"{name} is a link or not a plain file", expected="a plain file", fix="Copy it again")
    with path.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise BundleRefused(
            f"{name} is too large",
            expected=f"at most {limit} bytes",
            found="more",
            fix="Build the bundle again",
        )
    return data


def _signer(manifest: bytes, signature: bytes, trusted: Mapping[str, Ed25519PublicKey]) -> str:
    if len(signature) != _SIGNATURE_BYTES + _KEY_ID_BYTES:
        raise BundleRefused(
            "manifest.sig is cut short",
            expected=f"{_SIGNATURE_BYTES + _KEY_ID_BYTES} bytes",
            found=f"{len(signature)}",
            fix="Copy the bundle again from where it was built",
        )
    identity = signature[_SIGNATURE_BYTES:].hex()
    if identity not in trusted:
        raise BundleRefused(
            "the bundle is signed by a key not trusted here",
            expected=f"one of {', '.join(sorted(trusted)) or 'none'}",
            found=identity,
            fix="If that key is your workstation's, add its .pub file to the trusted keys",
        )
    try:
        trusted[identity].verify(signature[:_SIGNATURE_BYTES], DOMAIN + manifest)
    except InvalidSignature as error:
        raise BundleRefused(
            "the manifest or its signature was changed after signing",
            expected=f"a signature by key {identity} over this manifest",
            found="one that does not match",
            fix="Copy the bundle again from where it was built",
        ) from error
    return identity
