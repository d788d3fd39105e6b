"""What the commands of a station share: where it keeps its things, whom it trusts, how it talks."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.errors import UsageError
from export.runtime.manifest import Runtime
from export.runtime.trust_store import trusted_at, trusted_folder

Commands: TypeAlias = "argparse._SubParsersAction[Any]"


def keys_parser() -> argparse.ArgumentParser:
    """Return the options of every command that trusts keys."""
    keys = argparse.ArgumentParser(add_help=False)
    keys.add_argument(
        "--trust",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="a public key (.pub) or a folder of them; repeatable (default: what `station trust` lists)",
    )
    keys.add_argument(
        "--store",
        type=Path,
        help="the station's folder (default: $STATION_STORE, else in the user's data folder)",
    )
    return keys


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Add the option that names another runtime."""
    parser.add_argument("--runtime", choices=get_args(Runtime), help="another runtime than the bundle's own")


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a bundle."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the folder of a signed bundle")


def add_bundle_or_installed(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a bundle, else what is installed; ``bundle_of`` reads it."""
    parser.add_argument(
        "bundle", type=Path, nargs="?", metavar="BUNDLE", help="the folder of a signed bundle (default: what runs here)"
    )


def bundle_of(options: argparse.Namespace) -> Path:
    """Return the folder of the bundle named, else of what is installed; raises as ``installed`` does."""
    from export.runtime.install.state import bundle_folder, installed

    store = store_of(options)
    return options.bundle or bundle_folder(store, installed(store).bundle)


def at_least(kind: type[int] | type[float], least: int) -> Callable[[str], float]:
    """Return what makes an argument a number that is at least ``least`` and below a million."""

    def number(text: str) -> float:
        value = kind(text)
        if not least <= value < 1e6:
            raise argparse.ArgumentTypeError(f"must be at least {least} and below a million, found {text}")
        return value

    number.__name__ = "whole number" if kind is int else "number"  # argparse names it where the text is none
    return number


def say(text: str) -> None:
    """Print one line for people, which never mixes with what is printed for programs."""
    print(text, file=sys.stderr, flush=True)


def trusted_keys(options: argparse.Namespace) -> Mapping[str, Ed25519PublicKey]:
    """Return the public keys by id that this call trusts: those named, else those of the store; never one revoked."""
    store = store_of(options)
    keys = trusted_at(store, options.trust)
    if not keys:
        raise UsageError(
            "this station trusts no key yet",
            expected=f"a public key (*.pub) in {trusted_folder(store)}",
            found="none",
            fix="Give it the .pub file of the workstation that signs by `station trust FILE`, or name it by --trust",
        )
    return keys


def store_of(options: argparse.Namespace) -> Path:
    """Return the station's folder."""
    named = options.store or os.environ.get("STATION_STORE")
    if named:
        return Path(named)
    if sys.platform == "win32":
        data = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "edge-model-station"


def pictures_in(path: Path) -> list[Path]:
    """Return the picture at a path, or those of a folder; raises UsageError for a folder without any."""
    from export.runtime.image import IMAGE_SUFFIXES

    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not found:
        raise UsageError(
            f"the folder {path} holds no pictures",
            expected="files such as .png or .jpg",
            found="none",
            fix="Name a folder with pictures in it",
        )
    return found
