"""The files of a signed folder against its manifest: safe names, exactly those files, exactly those bytes."""

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from export.runtime.errors import BundleRefused
from export.runtime.files import NotPlainError, TooLargeError, read_plain, why_not_plain
from export.runtime.manifest import FileEntry

MANIFEST_NAME: Final = "manifest.json"
SIGNATURE_NAME: Final = "manifest.sig"
MAX_TOTAL_BYTES: Final = 1 << 30
MAX_FILES: Final = 4096
MAX_PATH: Final = 200  # characters, of which Windows has 260 for the folder and the path
MAX_DEPTH: Final = 8

_OWN: Final = frozenset({MANIFEST_NAME, SIGNATURE_NAME})
_NAMES: Final = 1  # a file with a second name can be changed under that one, unseen by who guards the folder
# What Windows opens as a device, whatever follows the first dot.
_DEVICES: Final = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9])\s*(\..*)?", re.IGNORECASE | re.DOTALL)
_KEPT_FROM_NAMES: Final = frozenset('<>"|?*')  # by Windows


def check_paths(paths: Iterable[str]) -> None:
    """Raise BundleRefused unless every path stays inside a bundle and means one file on every system.

    At most MAX_FILES paths, each of MAX_PATH characters and MAX_DEPTH parts.
    """
    seen: dict[str, tuple[str, bool]] = {}
    for number, path in enumerate(paths):
        problem = _unsafe(path) if number < MAX_FILES else f"is one of more than {MAX_FILES}"
        if problem is None:
            problem = _clash(path, seen)
        if problem is not None:
            raise BundleRefused(
                f"the path {path[:MAX_PATH]!r} {problem}",
                expected="plain relative paths such as golden/000.png, each once",
                fix="Build the bundle again with plain file names",
            )


def read_contents(folder: Path, files: Sequence[FileEntry], what: str = "bundle") -> Mapping[str, bytes]:
    """Return every listed file's bytes by its path, each read once and hashed as read.

    ``check_paths`` must hold for the paths; ``what`` is what the messages call the folder. Raises BundleRefused
    for a link, a file of several names, a file or folder not listed, a listed file missing or of another size or
    SHA-256, or more than MAX_TOTAL_BYTES in all; every size is checked before a byte is read.
    """
    total = sum(entry.size for entry in files)
    if total > MAX_TOTAL_BYTES:
        limit = f"at most {MAX_TOTAL_BYTES} bytes"
        raise BundleRefused(f"the {what} is too large", expected=limit, found=f"{total}", fix="Pack fewer files")
    sizes = _check_tree(folder, {entry.path for entry in files} | _OWN, what)
    for entry in files:
        if sizes[entry.path] != entry.size:
            raise _changed(entry.path, f"{entry.size} bytes", f"{sizes[entry.path]}", what)
    return {entry.path: _read_hashed(folder, entry, what) for entry in files}


def _unsafe(path: str) -> str | None:
    parts = path.split("/")
    rules = (
        (path == "", "is empty"),
        (len(path) > MAX_PATH, f"is longer than {MAX_PATH} characters"),
        (len(parts) > MAX_DEPTH, f"is deeper than {MAX_DEPTH} folders"),
        (path.startswith("/"), "is absolute"),
        ("\\" in path, "holds a backslash"),
        (":" in path, "names a drive or a stream"),
        (not path.isprintable(), "holds control characters"),
        (".." in parts, "leaves the bundle"),
        ("" in parts or "." in parts, "is not written plainly"),
        (any(part[-1:] in (".", " ") for part in parts), "ends a name in a dot or a space"),
        (not _KEPT_FROM_NAMES.isdisjoint(path), "holds a character that Windows keeps from names"),
        (any(_DEVICES.fullmatch(part) for part in parts), "names a device of Windows"),
        # Compatibility forms too: a full-width stop is a stop to some systems.
        (unicodedata.normalize("NFKC", path) != path, "is not in Unicode's composed form (NFKC)"),
        (path.casefold() in _OWN, "is the manifest's or the signature's own"),
    )
    return next((problem for broken, problem in rules if broken), None)


def _clash(path: str, seen: dict[str, tuple[str, bool]]) -> str | None:
    """Return how a path clashes with one of those before it, and note it: its folders, and the file."""
    folders = [str(parent) for parent in PurePosixPath(path).parents][:-1]
    for name, is_file in [*((folder, False) for folder in folders), (path, True)]:
        folded = unicodedata.normalize("NFKC", name.casefold())
        known, was_file = seen.get(folded, (name, is_file))
        if known != name or (is_file and was_file and folded in seen):
            return f"differs from {known!r} by letter case at most"
        if is_file != was_file:
            return f"makes {name!r} a file and a folder"
        seen[folded] = (name, is_file)
    return None


def _check_tree(folder: Path, listed: set[str], what: str) -> dict[str, int]:
    """Return the size of every file by its path: those listed, neither more nor fewer."""
    folders = {str(parent) for path in listed for parent in PurePosixPath(path).parents} - {"."}
    sizes = {}
    for path, found in _walk(folder, ""):
        if stat.S_ISDIR(found.st_mode):
            problem = "" if path in folders else "is a folder the manifest does not list"
        else:
            unlisted = "" if path in listed else "is a file the manifest does not list"
            problem = why_not_plain(found, _NAMES) or unlisted
            sizes[path] = found.st_size
        if problem:
            # A name that nobody signed may hold what steers a terminal.
            shown = path[:MAX_PATH] if path.isprintable() else ascii(path[:MAX_PATH])
            raise BundleRefused(f"{shown} {problem}", expected="only the files of the manifest", fix=_copy(what))
    missing = sorted(listed - sizes.keys())
    if missing:
        named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise BundleRefused(f"the {what} lacks {named}", expected="every file of the manifest", fix=_copy(what))
    return sizes


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        # More than could be listed need not all be known: one of them will be refused.
        for entry in sorted(islice(entries, MAX_FILES + len(_OWN) + 1), key=lambda item: item.name):
            found = entry.stat(follow_symlinks=False)
            yield prefix + entry.name, found
            # A caller that refuses a link or an unlisted folder stops here, before it is entered.
            if stat.S_ISDIR(found.st_mode):
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")


def _read_hashed(folder: Path, entry: FileEntry, what: str) -> bytes:
    # A folder that became a link since is followed, to no avail: these very bytes are hashed, and no others used.
    try:
        data = read_plain(folder / entry.path, entry.size, names=_NAMES)
    except NotPlainError as error:
        raise _changed(entry.path, "the plain file that was just there", f"one that {error}", what) from error
    except TooLargeError as error:
        raise _changed(entry.path, f"{entry.size} bytes", f"{error}", what) from error
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise _changed(entry.path, f"SHA-256 {entry.sha256}", found, what)
    return data


def _changed(path: str, expected: str, found: str, what: str) -> BundleRefused:
    return BundleRefused(f"{path} was changed after signing", expected=expected, found=found, fix=_copy(what))


def _copy(what: str) -> str:
    return f"Copy the {what} again from where it was built"
