"""Commands that time: a bundle against its budget, and every network of a kit."""

import argparse
import json
import shlex
from pathlib import Path

from export.runtime.commands.common import (
    Commands,
    add_bundle_or_installed,
    add_runtime,
    at_least,
    bundle_of,
    say,
    store_of,
    trusted_keys,
)  # fmt: skip
from export.runtime.errors import GateError


def add(commands: Commands, keys: argparse.ArgumentParser) -> None:
    """Add bench and measure."""
    bench = commands.add_parser("bench", parents=[keys], help="time a bundle here, and hold it against its budget")
    add_bundle_or_installed(bench)
    add_runtime(bench)
    bench.add_argument("--batch", type=at_least(int, 1), default=1, metavar="N", help="frames a run (default: 1)")
    bench.add_argument(
        "--rhythm-ms",
        type=at_least(float, 0),
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


def _bench(options: argparse.Namespace) -> int:
    from export.runtime.bench import bench, lines

    document = bench(
        bundle_of(options), trusted_keys(options), options.runtime, store_of(options),
        batch=options.batch, every_ms=options.rhythm_ms, say=say,
    )  # fmt: skip
    print(json.dumps(document) if options.json else "\n".join(lines(document)))
    if document["within_budget"] is False:
        raise GateError(
            "the bundle misses its latency budget on this machine",
            expected=f"a median of at most {document['budget_ms']:g} ms",
            found=f"{document['p50_ms']:.3f} ms" + (", measured unsteadily" if document["noisy"] else ""),
            fix="End what else runs here and measure again; else search with this machine as the budget's device",
        )
    named = f" {shlex.quote(str(options.bundle))}" if options.bundle else ""
    say(f"next: station inspect{named} PICTURES")
    return 0


def _measure(options: argparse.Namespace) -> int:
    from export.runtime.measuring import measure_kit
    from export.runtime.station_key import NAME

    store = store_of(options)
    found = measure_kit(options.kit, trusted_keys(options), store, options.out, say)
    noisy = sum(result.latency.noisy for result in found.results)
    print(f"{len(found.results)} networks measured on {found.identity['processor']}, {noisy} of them unsteadily")
    print(f"signed by this station's key {found.signer.key_id}: {options.out}")
    public = shlex.quote(f"{store / NAME}.pub")
    out = shlex.quote(str(options.out))
    say(f"next: carry that file and {public} to the workstation; there:")
    say(f"factory measure {found.device.name} --read {out} --trust {NAME}.pub")
    return 0
