"""The command that shows whether the line still sends what the network was trained on."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from export.runtime.commands.common import Commands, at_least, say, store_of, trusted_keys

if TYPE_CHECKING:
    from export.runtime.drift.detector import Alarm

_LATEST: Final = 500  # parts that the table calls the latest

Values = Mapping[str, Sequence[float]]


def add(commands: Commands, keys: argparse.ArgumentParser) -> None:
    """Add drift."""
    drift = commands.add_parser("drift", parents=[keys], help="compare the last parts with the bundle's reference")
    whole = at_least(int, 1)
    drift.add_argument("--last", type=whole, default=10_000, metavar="N", help="parts to look at (default: 10,000)")
    drift.add_argument("--plot", type=Path, metavar="FILE", help="draw them, as an SVG file that any browser shows")
    drift.add_argument("--json", action="store_true", help="print the result as one JSON object")
    drift.set_defaults(run=_drift)


def _drift(options: argparse.Namespace) -> int:
    from export.runtime.drift.detector import watched
    from export.runtime.drift.plot import plot
    from export.runtime.drift.recent import recent
    from export.runtime.files import write_atomic
    from export.runtime.log.history import History
    from export.runtime.settings import read_settings

    store = store_of(options)
    settings = read_settings(store).drift
    between = settings.parts_between_false_alarms
    bundle, reference = _reference(store, options)
    with History(store) as history:
        values = recent(history, bundle, int(options.last))
    number = len(values["score"])
    alarms = watched(values, reference, between, one_in=settings.one_in)
    if options.plot is not None:
        write_atomic(options.plot, plot(values, reference, alarms).encode())
    if options.json:
        document = {
            "bundle": bundle,
            "parts": number,
            "parts_between_false_alarms": between,
            "quantities": _figures(values, reference),
            "alarms": [asdict(alarm) for alarm in alarms],
            "plot": None if options.plot is None else str(options.plot),
        }
        print(json.dumps(document))
    else:
        print("\n".join(_lines(_figures(values, reference), alarms)))
        say(f"{number:,} parts of bundle {bundle}, counted from the first of them; without any drift one alarm in")
        say(f"{between:,} parts would be expected. A quantity is compared anew behind each of its alarms.")
    shown = "" if options.plot is None else f"; open {options.plot}"
    say(f"next: station log --last 20{shown}" if options.plot else "next: station drift --plot drift.svg")
    return 0


def _reference(store: Path, options: argparse.Namespace) -> tuple[str, Values]:
    """What is installed, and its reference values; the copy is verified first."""
    from export.runtime.drift.reference import read_reference
    from export.runtime.drift.statistics import Gauge
    from export.runtime.install.copies import verify_copy
    from export.runtime.install.state import installed

    bundle = installed(store).bundle
    verified = verify_copy(store, bundle, trusted_keys(options))
    taken = verified.manifest.input
    size = Gauge(taken.height, taken.width, taken.channels).size
    return bundle, read_reference(verified.manifest, verified.contents, size).values.by_name()


def _figures(values: Values, reference: Values) -> dict[str, dict[str, dict[str, float] | None]]:
    return {
        name: {"reference": _spread(reference[name]), "latest": _spread(values[name][-_LATEST:])} for name in reference
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    import numpy as np

    if not values:
        return None
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    return {"p5": low, "median": middle, "p95": high}


def _lines(figures: Mapping[str, Mapping[str, Mapping[str, float] | None]], alarms: Sequence["Alarm"]) -> list[str]:
    def told(spread: Mapping[str, float] | None) -> str:
        return "-" if spread is None else f"{spread['median']:.4g} ({spread['p5']:.4g} to {spread['p95']:.4g})"

    heads = f"{'median (5 to 95 %)':<20}{'reference':<30}latest {_LATEST} parts"
    rows = [f"{name:<20}{told(own['reference']):<30}{told(own['latest'])}" for name, own in figures.items()]
    return [heads, *rows, *(f"ALARM: {alarm} (part {alarm.part:,})" for alarm in alarms)] + (
        [] if alarms else ["no alarm"]
    )
