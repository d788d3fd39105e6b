"""The files of a signed folder against its manifest: safe names, exactly those files, exactly those bytes."""

import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from export.runtime.errors import BundleRefused
from export.runtime.manifest import FileEntry

MANIFEST_NAME: Final = "manifest.json"
SIGNATURE_NAME: Final = "manifest.sig"
MAX_TOTAL_BYTES: Final = 1 << 30

_OWN: Final = frozenset({MANIFEST_NAME, SIGNATURE_NAME})


def check_paths(paths: Iterable[str]) -> None:
    """Raise BundleRefused unless every path stays inside a bundle and means one file on every system."""
    seen: dict[str, str] = {}
    for path in paths:
        problem = _unsafe(path)
        folded = path.casefold()
        if problem is None and folded in seen:
            problem = f"differs from {seen[folded]!r} by letter case at most"
        if problem is not None:
            raise BundleRefused(
                f"the path {path!r} {problem}",
                expected="plain relative paths such as golden/000.png, each once",
                fix="Build the bundle again with plain file names",
            )
        seen[folded] = path


def read_contents(folder: Path, files: Sequence[FileEntry], what: str = "bundle") -> Mapping[str, bytes]:
    """Return every listed file's bytes by its path, each read once and hashed as read.

    ``check_paths`` must hold for the paths; ``what`` is what the messages call the folder. Raises BundleRefused
    for a link, a file or folder not listed, a listed file missing or of another size or SHA-256, or more than
    MAX_TOTAL_BYTES in all.
    """
    total = sum(entry.size for entry in files)
    if total > MAX_TOTAL_BYTES:
        limit = f"at most {MAX_TOTAL_BYTES} bytes"
        raise BundleRefused(f"the {what} is too large", expected=limit, found=f"{total}", fix="Pack fewer files")
    _check_tree(folder, {entry.path for entry in files} | _OWN, what)
    for entry in files:
        size = (folder / entry.path).lstat().st_size
        if size != entry.size:
            raise _changed(entry.path, f"{entry.size} bytes", f"{size}", what)
    return {entry.path: _read_hashed(folder, entry, what) for entry in files}


def _unsafe(path: str) -> str | None:
    parts = path.split("/")
    rules = (
        (path == "", "is empty"),
        (path.startswith("/"), "is absolute"),
        ("\\" in path, "holds a backslash"),
        (":" in path, "names a drive or a stream"),
        (not path.isprintable(), "holds control characters"),
        (".." in parts, "leaves the bundle"),
        ("" in parts or "." in parts, "is not written plainly"),
        (any(part[-1:] in (".", " ") for part in parts), "ends a name in a dot or a space"),
        (unicodedata.normalize("NFC", path) != path, "is not in Unicode's composed form (NFC)"),
        (path.casefold() in _OWN, "is the manifest's or the signature's own"),
    )
    return next((problem for broken, problem in rules if broken), None)


def _check_tree(folder: Path, listed: set[str], what: str) -> None:
    folders = {str(parent) for path in listed for parent in PurePosixPath(path).parents} - {"."}
    present = set()
    for path, mode in _walk(folder, ""):
        if stat.S_ISLNK(mode):
            problem = "is a link"
        elif stat.S_ISDIR(mode):
            problem = "" if path in folders else "is a folder the manifest does not list"
        elif not stat.S_ISREG(mode):
            problem = "is not a plain file"
        else:
            problem = "" if path in listed else "is a file the manifest does not list"
            present.add(path)
        if problem:
            raise BundleRefused(f"{path} {problem}", expected="only the files of the manifest", fix=_copy(what))
    if listed - present:
        missing = ", ".join(sorted(listed - present))
        raise BundleRefused(f"the {what} lacks {missing}", expected="every file of the manifest", fix=_copy(what))


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda item: item.name):
            mode = entry.stat(follow_symlinks=False).st_mode
            yield prefix + entry.name, mode
            # A caller that refuses a link or an unlisted folder stops here, before it is entered.
            if stat.S_ISDIR(mode):
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")


def _read_hashed(folder: Path, entry: FileEntry, what: str) -> bytes:
    with (folder / entry.path).open("rb") as stream:
        data = stream.read(entry.size + 1)
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise _changed(entry.path, f"SHA-256 {entry.sha256}", found, what)
    return data


def _changed(path: str, expected: str, found: str, what: str) -> BundleRefused:
    return BundleRefused(f"{path} was changed after signing", expected=expected, found=found, fix=_copy(what))


def _copy(what: str) -> str:
    return f"Copy the {what} again from where it was built"
