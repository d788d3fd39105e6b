"""The command ``station``: verify a bundle, inspect pictures by it, measure it, build its engine for this station."""

import argparse
import errno
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.errors import EnvironmentLacks, FactoryError, GateError, UsageError
from export.runtime.manifest import Runtime, bundle_id
from export.runtime.trust import load_trusted, verify_bundle

if TYPE_CHECKING:
    from export.runtime.station import Station

_RUNTIME_HELP = "another runtime than the bundle's own"
_INTERRUPTED = 130
_BROKEN_PIPE = 141
_NOT_WRITTEN = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0 done, 1 a verification or a budget failed or a picture could not be inspected, 2 wrong usage, 3 this machine
    lacks something; 130 after Ctrl-C, 141 where the reader of the output went away.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except FactoryError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        _say("stopped")
        return _INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more on exit, which would print the error after all.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except OSError as error:
        told = _told(error)
        _say(f"error: {told}")
        return told.exit_code
    return code


def _told(error: OSError) -> FactoryError:
    found, where = error.strerror or str(error), f": {error.filename}" if error.filename else ""
    if error.errno in _NOT_WRITTEN:
        return EnvironmentLacks(
            "nothing can be written there",
            expected="a place that can be written, with space left",
            found=f"{found}{where}",
            fix="Free some space, or name another folder, such as the station's by --store",
        )
    return UsageError(f"cannot use {error.filename}", found=found, fix="Check the path and its permissions")


def _parser() -> argparse.ArgumentParser:
    keys = argparse.ArgumentParser(add_help=False)
    keys.add_argument(
        "--trust",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="a public key (.pub) or a folder of them; repeatable (default: the store's folder 'trusted')",
    )
    keys.add_argument(
        "--store",
        type=Path,
        help="the station's folder (default: $STATION_STORE, else in the user's data folder)",
    )
    common = argparse.ArgumentParser(add_help=False, parents=[keys])
    common.add_argument("bundle", type=Path, metavar="BUNDLE", help="the folder of a signed bundle")
    parser = argparse.ArgumentParser(prog="station", description="Inspect pictures by a signed model bundle.")
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", parents=[common], help="check who signed a bundle and every byte of it")
    verify.add_argument("--json", action="store_true", help="print the result as one JSON object")
    verify.set_defaults(run=_verify)
    inspect = commands.add_parser("inspect", parents=[common], help="print one JSON line with a verdict a picture")
    inspect.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="a picture, or a folder of pictures")
    inspect.add_argument("--runtime", choices=get_args(Runtime), help=_RUNTIME_HELP)
    inspect.set_defaults(run=_inspect)
    rebuild = commands.add_parser(
        "rebuild-engine", parents=[common], help="build the engine on this machine from the bundle's ONNX model"
    )
    rebuild.add_argument("--runtime", choices=get_args(Runtime), help=_RUNTIME_HELP)
    rebuild.set_defaults(run=_rebuild)
    bench = commands.add_parser("bench", parents=[common], help="time a bundle here, and hold it against its budget")
    bench.add_argument("--runtime", choices=get_args(Runtime), help=_RUNTIME_HELP)
    bench.add_argument("--batch", type=_at_least(int, 1), default=1, metavar="N", help="frames a run (default: 1)")
    bench.add_argument(
        "--rhythm-ms",
        type=_at_least(float, 0),
        default=100.0,
        metavar="T",
        help="the line sends a part every T ms (default: 100; 0 leaves the idle gaps out)",
    )
    bench.add_argument("--json", action="store_true", help="print the result as one JSON object")
    bench.set_defaults(run=_bench)
    measure = commands.add_parser("measure", parents=[keys], help="time every network of a kit, and sign the figures")
    measure.add_argument("kit", type=Path, metavar="KIT", help="the folder that `factory measure --kit` wrote")
    measure.add_argument("--out", type=Path, required=True, metavar="FILE", help="the signed file to carry back")
    measure.set_defaults(run=_measure)
    return parser


def _at_least(kind: type[int] | type[float], least: int) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not least <= value < 1e6:
            raise argparse.ArgumentTypeError(f"must be at least {least} and below a million, found {text}")
        return value

    number.__name__ = "whole number" if kind is int else "number"  # argparse names it where the text is none
    return number


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


def _bench(options: argparse.Namespace) -> int:
    from export.runtime.bench import bench, lines

    document = bench(
        options.bundle, _trusted(options), options.runtime, _store(options),
        batch=options.batch, every_ms=options.rhythm_ms, say=_say,
    )  # fmt: skip
    print(json.dumps(document) if options.json else "\n".join(lines(document)))
    if document["within_budget"] is False:
        raise GateError(
            "the bundle misses its latency budget on this machine",
            expected=f"a median of at most {document['budget_ms']:g} ms",
            found=f"{document['p50_ms']:.3f} ms" + (", measured unsteadily" if document["noisy"] else ""),
            fix="End what else runs here and measure again; else search with this machine as the budget's device",
        )
    _say(f"next: station inspect {shlex.quote(str(options.bundle))} PICTURES")
    return 0


def _measure(options: argparse.Namespace) -> int:
    from export.runtime.measuring import measure_kit
    from export.runtime.station_key import NAME

    store = _store(options)
    found = measure_kit(options.kit, _trusted(options), store, options.out, _say)
    noisy = sum(result.latency.noisy for result in found.results)
    print(f"{len(found.results)} networks measured on {found.identity['processor']}, {noisy} of them unsteadily")
    print(f"signed by this station's key {found.signer.key_id}: {options.out}")
    public = shlex.quote(f"{store / NAME}.pub")
    out = shlex.quote(str(options.out))
    _say(f"next: carry that file and {public} to the workstation; there:")
    _say(f"factory measure {found.device.name} --read {out} --trust {NAME}.pub")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


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
