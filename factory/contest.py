"""Two signed bundles of one line against each other, as a station would run them, on the line's test images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

import factory
from export.runtime import image
from export.runtime.errors import UsageError
from export.runtime.keys import load_trusted
from export.runtime.manifest import JsonObject, bundle_id
from export.runtime.station import Station, Verdict
from export.runtime.trust import VerifiedBundle, verify_bundle
from factory.data.dataset import Part
from factory.groundwork import Groundwork
from factory.profiles import Classes
from factory.report import versus_page as page
from factory.report.page import write_text
from factory.training.versus import Decided, Versus

NAMES: Final = {
    "balanced_accuracy": "Balanced accuracy",
    "escape": "Escape (defects passed)",
    "overkill": "Overkill (good rejected)",
}


@dataclass(frozen=True, slots=True)
class Side:
    """One bundle, verified, and the station that runs it."""

    bundle: VerifiedBundle
    station: Station

    @property
    def name(self) -> str:
        """As `station verify` prints it."""
        return bundle_id(self.bundle.manifest_bytes)

    @property
    def facts(self) -> page.BundleFacts:
        """What the bundle says of itself."""
        manifest = self.bundle.manifest
        device, taken = manifest.device, manifest.input
        return page.BundleFacts(
            bundle=self.name,
            folder=str(self.bundle.folder),
            line=manifest.line,
            created=manifest.created,
            device=f"{device.name}, {device.runtime}, {device.precision}",
            picture=f"{taken.width} x {taken.height}, {taken.colour}",
            latency_ms=_signed_latency(manifest.budget),
            size_mb=len(self.bundle.contents[manifest.model.path]) / 1e6,
        )


def _signed_latency(budget: JsonObject) -> float | None:
    """The median of the bundle on its device, in ms; None where the manifest does not say."""
    match budget:
        case {"latency_ms": {"measured": {"p50_ms": float(latency)}}}:
            return latency
    return None


def open_sides(folders: Sequence[Path], trust: Sequence[Path], classes: Classes) -> list[Side]:
    """The bundles in `folders`, each opened only once all are verified and belong to the line.

    Args:
        folders: of signed bundles.
        trust: public key files, or folders of them.
        classes: of the line.

    Raises:
        BundleRefused: where a signature, a file or the golden scores do not hold.
        UsageError: if a key cannot be read, or a bundle has other labels than the line.
        EnvironmentLacks: if this machine cannot run a bundle.
    """
    keys = load_trusted(trust)
    bundles = [verify_bundle(folder, keys) for folder in folders]
    for bundle in bundles:
        manifest = bundle.manifest
        if set(manifest.labels) != set(classes.labels) or manifest.good != classes.good:
            raise UsageError(
                f"the bundle {bundle.folder} decides between other classes than the line",
                expected=_classes(classes.labels, classes.good),
                found=_classes(manifest.labels, manifest.good),
                fix="compare bundles of this line, or name the line that they were made for",
            )
    return [Side(bundle, Station.load(bundle.folder, keys)) for bundle in bundles]


def _classes(labels: Sequence[str], good: str | None) -> str:
    return f"{', '.join(sorted(labels))}; good: {good or 'none'}"


def inspect(station: Station, root: Path, test: Part, tick: Callable[[], None]) -> list[Verdict]:
    """The station's verdict on every test picture, one by one and from its file, as on the line."""
    found = []
    for path in test.paths:
        found.append(station.inspect(root / path))
        tick()
    return found


def decided(verdicts: Sequence[Verdict], classes: Classes) -> Decided:
    """Verdicts as indices into the line's labels; a bundle may have them in another order."""
    scores = np.array([[verdict.scores[label] for label in classes.labels] for verdict in verdicts])
    rejected = None if classes.good is None else np.array([verdict.label != classes.good for verdict in verdicts])
    return Decided(scores.argmax(axis=1), rejected)


def contest(run: Groundwork, sides: Sequence[Side], tick: Callable[[], None]) -> dict[str, Any]:
    """Compare two bundles on the line's test images; write the page into the line's runs; return the document.

    Args:
        run: of the line.
        sides: A and B, of `open_sides`.
        tick: called once a picture and bundle.
    """
    classes, test = run.line.classes, run.data.test
    verdicts = [inspect(side.station, run.root, test, tick) for side in sides]
    a, b = (decided(own, classes) for own in verdicts)
    versus = Versus(test.labels, run.data.good, a, b)
    path = run.workspace.root / f"compare-{sides[0].name}-{sides[1].name}.html"
    document = {
        "line": run.line.name,
        **{key: {name: getattr(side.facts, name) for name in page.BundleFacts.__slots__}
           for key, side in zip("ab", sides, strict=True)},
        **versus.as_json(),
        "notes": _notes(sides, run),
        "page": str(path),
        "apart": [
            {
                "path": test.paths[row],
                "truth": classes.labels[test.labels[row]],
                "a": verdicts[0][row].label,
                "b": verdicts[1][row].label,
                "a_right": bool(versus.right[0][row]),
                "b_right": bool(versus.right[1][row]),
            }
            for row in _order(versus)
        ],
    }  # fmt: skip
    write_text(page.render(_report(document, sides, run)), path)
    return document


def _order(versus: Versus) -> list[int]:
    """Rows on which A and B differ: defects first, else those that one of them decides rightly."""
    first = versus.right[0] | versus.right[1] if versus.good is None else versus.defective
    return sorted(np.flatnonzero(versus.differ).tolist(), key=lambda row: not first[row])


def _notes(sides: Sequence[Side], run: Groundwork) -> list[str]:
    notes = []
    for letter, side in zip("AB", sides, strict=True):
        match side.bundle.manifest.chain:
            case {"data": {"result": made_of}} if made_of == run.data_stage.result:
                pass
            case _:
                notes.append(
                    f"{letter} was not made from this line's images as they are now: they, their split or the size of "
                    f"the input changed. Where it was trained on some of these test images, it looks better than it is."
                )
    return notes


def _interval(estimate: dict[str, float]) -> page.Interval:
    return estimate["value"], estimate["low"], estimate["high"]


def _report(document: dict[str, Any], sides: Sequence[Side], run: Groundwork) -> page.VersusReport:
    figures = [
        page.FigureRow(
            NAMES[name], _interval(row["a"]), _interval(row["b"]), _interval(row["difference"]), row.get("p")
        )
        for name, row in document["figures"].items()
    ]
    pictures = [
        page.Apart(image.decode(run.root / row["path"]), **row) for row in document["apart"][: page.MOST_PICTURES]
    ]
    counted = {key: document[key] for key in ("both_right", "only_a", "only_b", "both_wrong", "p", "differ")}
    return page.VersusReport(
        line=run.line.name,
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
        tool_version=factory.__version__,
        good=run.line.classes.good,
        sentence=document["sentence"],
        notes=document["notes"],
        bundles=(sides[0].facts, sides[1].facts),
        figures=figures,
        pictures=pictures,
        **counted,
    )
