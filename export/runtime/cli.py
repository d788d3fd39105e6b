"""The command ``station``: verify a bundle, inspect pictures by it, build its engine for this station."""

import argparse
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.errors import FactoryError, UsageError
from export.runtime.manifest import Runtime, bundle_id
from export.runtime.trust import load_trusted, verify_bundle

if TYPE_CHECKING:
    from export.runtime.station import Station

_RUNTIME_HELP = "another runtime than the bundle's own"
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0 done, 1 a verification failed or a picture could not be inspected, 2 wrong usage, 3 this machine
    lacks something; 130 after Ctrl-C, 141 where the reader of the output went away.
    """
    options = _parser().parse_args(arguments)
    try:
        code = {"verify": _verify, "inspect": _inspect, "rebuild-engine": _rebuild}[options.command](options)
        sys.stdout.flush()
    except FactoryError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more on exit, which would print the error after all.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except OSError as error:
        found = error.strerror or str(error)
        print(
            f"error: {UsageError(f'cannot read {error.filename}', found=found, fix='Check the path')}",
            file=sys.stderr,
        )
        return UsageError.exit_code
    return code


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("bundle", type=Path, metavar="BUNDLE", help="the folder of a signed bundle")
    common.add_argument(
        "--trust",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="a public key (.pub) or a folder of them; repeatable (default: the store's folder 'trusted')",
    )
    common.add_argument(
        "--store",
        type=Path,
        help="the station's folder (default: $STATION_STORE, else in the user's data folder)",
    )
    parser = argparse.ArgumentParser(prog="station", description="Inspect pictures by a signed model bundle.")
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", parents=[common], help="check who signed a bundle and every byte of it")
    verify.add_argument("--json", action="store_true", help="print the result as one JSON object")
    inspect = commands.add_parser("inspect", parents=[common], help="print one JSON line with a verdict a picture")
    inspect.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="a picture, or a folder of pictures")
    inspect.add_argument("--runtime", choices=get_args(Runtime), help=_RUNTIME_HELP)
    rebuild = commands.add_parser(
        "rebuild-engine", parents=[common], help="build the engine on this machine from the bundle's ONNX model"
    )
    rebuild.add_argument("--runtime", choices=get_args(Runtime), help=_RUNTIME_HELP)
    return parser


def _verify(options: argparse.Namespace) -> int:
    try:
        verified = verify_bundle(options.bundle, _trusted(options))
    except FactoryError as error:
        if not options.json:
            raise
        print(json.dumps({"ok": False, "bundle": None, "key_id": None, "problems": [str(error)]}))
        return error.exit_code
    name = bundle_id(verified.manifest_bytes)
    if options.json:
        print(json.dumps({"ok": True, "bundle": name, "key_id": verified.key_id, "problems": []}))
        return 0
    signer = verified.manifest.signer.name
    print(f"bundle {name} for the line {verified.manifest.line} is whole")
    print(f"signed by {signer}, key {verified.key_id}, trusted here")
    print(f"next: station inspect {shlex.quote(str(options.bundle))} PICTURES", file=sys.stderr)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from export.runtime.station import Station

    pictures = [picture for path in options.paths for picture in _pictures(path)]
    station = Station.load(options.bundle, _trusted(options), runtime=options.runtime, store=_store(options))
    verdicts: Counter[str] = Counter()
    for picture in pictures:
        line = _line(station, picture)
        verdicts[str(line["verdict"])] += 1
        print(json.dumps(line), flush=True)
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    print(f"{len(pictures)} pictures: {told}", file=sys.stderr)
    if verdicts["error"]:
        print("error: the pictures with the verdict error were not inspected; see each line", file=sys.stderr)
        return 1
    print(f"next: station inspect {shlex.quote(str(options.bundle))} MORE_PICTURES", file=sys.stderr)
    return 0


def _rebuild(options: argparse.Namespace) -> int:
    from export.runtime.rebuild import rebuild_engine

    built = rebuild_engine(options.bundle, _trusted(options), _store(options), options.runtime)
    print(f"engine of {built.size / 1e6:.2f} MB built in {built.seconds:.1f} s by version {built.version}")
    print(f"every golden picture came out again; recorded as {built.record}")
    chosen = "" if options.runtime is None else f" --runtime {options.runtime}"
    print(f"next: station inspect {shlex.quote(str(options.bundle))} PICTURES{chosen}", file=sys.stderr)
    return 0


def _line(station: "Station", picture: Path) -> dict[str, object]:
    try:
        return {"path": str(picture), **asdict(station.inspect(picture))}
    except FactoryError as error:
        return {"path": str(picture), "verdict": "error", "error": str(error)}


def _pictures(path: Path) -> list[Path]:
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


def _trusted(options: argparse.Namespace) -> Mapping[str, Ed25519PublicKey]:
    if options.trust:
        return load_trusted(options.trust)
    folder = _store(options) / "trusted"
    if not any(folder.glob("*.pub")):
        raise UsageError(
            "this station trusts no key yet",
            expected=f"a public key (*.pub) in {folder}",
            found="none",
            fix="Copy the .pub file of the workstation that signs into that folder, or name it by --trust",
        )
    return load_trusted([folder])


def _store(options: argparse.Namespace) -> Path:
    named = options.store or os.environ.get("STATION_STORE")
    if named:
        return Path(named)
    if sys.platform == "win32":
        data = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "edge-model-station"


if __name__ == "__main__":
    sys.exit(main())
