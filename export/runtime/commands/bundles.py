"""Commands on a bundle: verify it, inspect pictures by it, build its engine for this station."""

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from export.runtime.commands.common import (
    Commands,
    add_bundle,
    add_bundle_or_installed,
    add_runtime,
    bundle_of,
    pictures_in,
    say,
    store_of,
    trusted_keys,
)  # fmt: skip
from export.runtime.contents import MANIFEST_NAME
from export.runtime.errors import FactoryError, UsageError
from export.runtime.manifest import bundle_id
from export.runtime.trust import verify_bundle

if TYPE_CHECKING:
    from export.runtime.live.inspector import Inspector
    from export.runtime.station import Station


def add(commands: Commands, keys: argparse.ArgumentParser) -> None:
    """Add verify, inspect and rebuild-engine."""
    verify = commands.add_parser("verify", parents=[keys], help="check who signed a bundle and every byte of it")
    add_bundle_or_installed(verify)
    verify.add_argument("--json", action="store_true", help="print the result as one JSON object")
    verify.set_defaults(run=_verify)
    inspect = commands.add_parser("inspect", parents=[keys], help="print one JSON line with a verdict a picture")
    inspect.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="pictures and folders of pictures; a bundle's folder goes first (default: what runs here)",
    )
    add_runtime(inspect)
    inspect.set_defaults(run=_inspect)
    rebuild = commands.add_parser(
        "rebuild-engine", parents=[keys], help="build the engine on this machine from the bundle's ONNX model"
    )
    add_bundle(rebuild)
    add_runtime(rebuild)
    rebuild.set_defaults(run=_rebuild)


def _verify(options: argparse.Namespace) -> int:
    try:
        verified = verify_bundle(bundle_of(options), trusted_keys(options))
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
    say(f"next: station inspect{_named(options.bundle)} PICTURES")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    bundle, paths = _bundle_and_pictures(options.paths)
    pictures = [picture for path in paths for picture in pictures_in(path)]
    verdicts: Counter[str] = Counter()
    failed = 0
    with _judging(options, bundle) as judge:
        for picture in pictures:
            line = judge(picture)
            verdicts[str(line["verdict"])] += 1
            failed += bool(line.get("error") or line.get("fault"))
            print(json.dumps(line), flush=True)
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    print(f"{len(pictures)} pictures: {told}", file=sys.stderr)
    if failed:
        print(f"error: {failed} of the pictures could not be inspected; see their lines", file=sys.stderr)
        return 1
    say(f"next: station inspect{_named(bundle)} MORE_PICTURES")
    return 0


@contextmanager
def _judging(options: argparse.Namespace, bundle: Path | None) -> Iterator[Callable[[Path], dict[str, object]]]:
    """Lend what judges a picture: what is installed, on record; another bundle or runtime, only to be looked at."""
    from export.runtime.install.installed import load_installed
    from export.runtime.live.inspector import Inspector
    from export.runtime.station import Station

    store, runtime = store_of(options), options.runtime
    if bundle is None and runtime is None:
        with Inspector.open(store, partial(trusted_keys, options), say) as inspector:
            yield partial(_recorded, inspector)
    elif bundle is None:
        yield partial(_line, load_installed(store, trusted_keys(options), runtime=runtime))
    else:
        yield partial(_line, Station.load(bundle, trusted_keys(options), runtime=runtime, store=store))


def _bundle_and_pictures(paths: list[Path]) -> tuple[Path | None, list[Path]]:
    first, *others = paths
    if not (first / MANIFEST_NAME).exists():
        return None, paths
    if not others:
        raise UsageError(
            "no picture is named", expected="pictures after the bundle", found=str(first), fix="Name some to inspect"
        )
    return first, others


def _named(bundle: Path | None) -> str:
    return f" {shlex.quote(str(bundle))}" if bundle else ""


def _line(station: "Station", picture: Path) -> dict[str, object]:
    try:
        return {"path": str(picture), **station.inspect(picture)._asdict()}
    except FactoryError as error:
        return {"path": str(picture), "verdict": "error", "error": str(error)}


def _recorded(inspector: "Inspector", picture: Path) -> dict[str, object]:
    try:
        answer = inspector.inspect(picture.read_bytes(), picture.stem)
    except OSError as error:
        answer = inspector.unjudged(picture.stem, uuid4().hex, f"{picture}: {error.strerror}")
    return {"path": str(picture), **asdict(answer)}


def _rebuild(options: argparse.Namespace) -> int:
    from export.runtime.rebuild import rebuild_engine

    built = rebuild_engine(options.bundle, trusted_keys(options), store_of(options), options.runtime)
    print(f"engine of {built.size / 1e6:.2f} MB built in {built.seconds:.1f} s by version {built.version}")
    print(f"every golden picture came out again; recorded as {built.record}")
    chosen = "" if options.runtime is None else f" --runtime {options.runtime}"
    print(f"next: station inspect {shlex.quote(str(options.bundle))} PICTURES{chosen}", file=sys.stderr)
    return 0
