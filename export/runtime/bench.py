"""How fast a bundle's network runs on this station, and whether it keeps the budget it was made for."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.engines import Runner
from export.runtime.figures import machine_lines, table
from export.runtime.fingerprint import fingerprint
from export.runtime.manifest import Manifest, Runtime, bundle_id
from export.runtime.station import Station, open_in
from export.runtime.timing import CV_LIMIT, PUBLISHED, Effort, Variant, random_frames, time_variants
from export.runtime.trust import verify_bundle

EFFORT: Final[Effort] = PUBLISHED


def bench(
    folder: Path,
    trusted: Mapping[str, Ed25519PublicKey],
    runtime: Runtime | None = None,
    store: Path | None = None,
    *,
    batch: int,
    every_ms: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Time a bundle back to back, without transfers and, unless ``every_ms`` is 0, with a batch every so many ms.

    The document has the figures of back to back at its top. ``within_budget`` is None where the bundle names no limit,
    or frames come together: the limit is that of one frame. Takes ``runtime`` and ``store`` and raises as
    ``Station.load`` does.
    """
    # A network that does not decide as it should has no latency worth knowing.
    verified = verify_bundle(folder, trusted)
    station = Station.of(verified, runtime=runtime, store=store)
    runs_in, model = station.runtime, station.variant.model
    manifest = verified.manifest
    machine = fingerprint(runs_in)

    def opened() -> Runner:
        return open_in(verified, runs_in, store).runner

    frames = random_frames((manifest.input.height, manifest.input.width, manifest.input.channels), batch)
    ways = {
        "back to back": Variant(opened, frames),
        "without transfers": Variant(opened, frames, transfers=False),
    }
    if every_ms:
        ways["after idle"] = Variant(opened, frames, every_ms=every_ms)
    turns = iter(range(1, EFFORT.rounds * len(ways) + 1))
    timed = time_variants(
        list(ways.values()), EFFORT, tick=lambda: say(f"bench: turn {next(turns)} of {EFFORT.rounds * len(ways)}")
    )
    figures = dict(zip(ways, (latency.as_json() for latency in timed), strict=True))
    own, limit = figures["back to back"], latency_limit_ms(manifest)
    return {
        "bundle": bundle_id(verified.manifest_bytes),
        "backend": runs_in,
        "precision": model.precision,
        "threads": manifest.threads,
        **own,
        "cv_limit": CV_LIMIT,
        "without_transfers": figures["without transfers"],
        "after_idle": {"every_ms": every_ms, **figures["after idle"]} if every_ms else None,
        "budget_ms": limit,
        "within_budget": None if limit is None or batch > 1 else timed[0].p50 <= limit,
        "fingerprint": asdict(machine),
    }


def latency_limit_ms(manifest: Manifest) -> float | None:
    """Return the limit of one frame's median latency that the bundle was made for, or None if it names none."""
    latency = manifest.budget.get("latency_ms")
    limit = latency.get("limit") if isinstance(latency, dict) else None
    return float(limit) if isinstance(limit, int | float) and not isinstance(limit, bool) else None


def lines(document: Mapping[str, Any]) -> list[str]:
    """The document as a table for people."""
    rows: list[tuple[str, Mapping[str, Any]]] = [
        ("back to back", document),
        ("without transfers", document["without_transfers"]),
    ]
    idle = document["after_idle"]
    if idle is not None:
        rows.append((f"every {idle['every_ms']:g} ms", idle))
    kept = {True: "kept", False: "MISSED", None: "not judged"}[document["within_budget"]]
    limit = "none in the bundle" if document["budget_ms"] is None else f"{document['budget_ms']:g} ms a frame, {kept}"
    return [
        f"bundle {document['bundle']}: {document['provider']}, {document['precision']}, "
        f"threads {document['threads']}, batch {document['batch']}",
        *table(rows),
        f"budget: {limit}",
        *machine_lines(document["fingerprint"]),
    ]
