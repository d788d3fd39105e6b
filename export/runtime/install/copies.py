"""The station's own copies of bundles: written from verified bytes, whole under their names or not there."""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.contents import MANIFEST_NAME, SIGNATURE_NAME
from export.runtime.errors import BundleRefused, FactoryError
from export.runtime.files import flush, flush_tree, make_folder
from export.runtime.install.state import FOLDER, bundle_folder
from export.runtime.manifest import bundle_id
from export.runtime.trust import VerifiedBundle, verify_bundle

_OURS: Final = re.compile(r"[0-9a-f]{16}|\.[0-9a-f]{16}\.partial")


def put_copy(store: Path, verified: VerifiedBundle, trusted: Mapping[str, Ed25519PublicKey]) -> VerifiedBundle:
    """Return the store's copy of a bundle, on disk and verified from there; one that is there and whole is reused.

    Raises OSError where it cannot be written, and BundleRefused where the disk gives back other bytes.
    """
    name = bundle_id(verified.manifest_bytes)
    final = bundle_folder(store, name)
    make_folder(final.parent)
    if is_whole(store, name, trusted):
        flush_tree(final)
    else:
        partial = final.with_name(f".{name}.partial")
        for left in (partial, final):
            _remove(left)
        _write(partial, verified)
        flush_tree(partial)
        partial.rename(final)
    flush(final.parent)
    return verify_copy(store, name, trusted)


def verify_copy(store: Path, bundle: str, trusted: Mapping[str, Ed25519PublicKey]) -> VerifiedBundle:
    """Return the store's copy of the bundle with that id, verified; raises as ``verify_bundle`` does."""
    verified = verify_bundle(bundle_folder(store, bundle), trusted)
    found = bundle_id(verified.manifest_bytes)
    if found != bundle:
        fix = "Install the bundle again"
        raise BundleRefused("the station's copy is another bundle", expected=bundle, found=found, fix=fix)
    return verified


def is_whole(store: Path, bundle: str, trusted: Mapping[str, Ed25519PublicKey]) -> bool:
    """Return whether the store's copy of the bundle with that id is there, whole, and trusted."""
    try:
        verify_copy(store, bundle, trusted)
    except FactoryError:
        return False
    return True


def sweep(store: Path, keep: Iterable[str]) -> None:
    """Remove the copies of all but the bundles with these ids, and what was left half written; raises OSError."""
    kept = frozenset(keep)
    if (store / FOLDER).is_dir():
        for path in sorted((store / FOLDER).iterdir()):
            if _OURS.fullmatch(path.name) and path.name not in kept:
                _remove(path)


def _write(folder: Path, verified: VerifiedBundle) -> None:
    folder.mkdir()
    own = {MANIFEST_NAME: verified.manifest_bytes, SIGNATURE_NAME: verified.signature}
    for path, data in (own | dict(verified.contents)).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
