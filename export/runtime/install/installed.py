"""What runs at a station: found, loaded, and told."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.errors import FactoryError
from export.runtime.install.age import check_allowed
from export.runtime.install.copies import verify_copy
from export.runtime.install.state import Version, installed, read_state
from export.runtime.manifest import Runtime
from export.runtime.station import Station


def load_installed(store: Path, trusted: Mapping[str, Ed25519PublicKey], *, runtime: Runtime | None = None) -> Station:
    """Return a station running what is installed in ``store``; raises as ``installed`` and ``Station.load`` do."""
    return load_version(store, installed(store), trusted, runtime=runtime)


def load_version(
    store: Path, version: Version, trusted: Mapping[str, Ed25519PublicKey], *, runtime: Runtime | None = None
) -> Station:
    """Return a station running that version of ``store``; raises as ``Station.load`` does."""
    return Station.of(verify_copy(store, version.bundle, trusted), runtime=runtime, store=store)


def status(store: Path, trusted: Mapping[str, Ed25519PublicKey]) -> dict[str, Any]:
    """Return what is installed as a JSON object, each version verified now.

    ``current`` and ``previous`` are versions or None; ``key_trusted`` says whether the key that signed one is still
    trusted, ``problem`` why it could not be loaded any more (None where it could). Raises GateError as ``read_state``.
    """
    state = read_state(store)

    def told(version: Version | None) -> dict[str, Any] | None:
        if version is None:
            return None
        problem = _problem(store, version, trusted)
        return {**asdict(version), "key_trusted": version.key_id in trusted, "problem": problem}

    return {
        "store": str(store),
        "current": told(state.current),
        "previous": told(state.previous),
        "newest": state.newest,
        "failures": [asdict(failure) for failure in state.failures],
    }


def _problem(store: Path, version: Version, trusted: Mapping[str, Ed25519PublicKey]) -> str | None:
    try:
        check_allowed(verify_copy(store, version.bundle, trusted).manifest, store)
    except FactoryError as error:
        return str(error)
    return None


def lines(document: Mapping[str, Any]) -> list[str]:
    """The status as lines for people."""
    current, previous = document["current"], document["previous"]
    if current is None:
        return [f"nothing is installed in {document['store']}"]
    told = [
        f"runs: bundle {current['bundle']} of the line {current['line']}, made at {current['created']}",
        f"since {current['since']}, verified by key {current['key_id']}, {_trust(current)}",
        *_figures(current["self_test"]),
    ]
    if current["problem"]:
        told.append(f"PROBLEM: {current['problem']}")
    if previous is None:
        told.append("rollback: there is nothing to go back to yet")
    else:
        what = f"rollback: would bring back bundle {previous['bundle']} of the line {previous['line']}"
        told.append(f"{what}, made at {previous['created']}, key {previous['key_id']}, {_trust(previous)}")
        if previous["problem"]:
            told.append(f"PROBLEM with it: {previous['problem']}")
    told += [f"taken back at {f['when']}: bundle {f['bundle']}: {f['reason']}" for f in document["failures"]]
    return told


def _trust(version: Mapping[str, Any]) -> str:
    return "trusted here" if version["key_trusted"] else "NO LONGER TRUSTED here"


def _figures(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    budget = "no budget in the bundle" if found["budget_ms"] is None else f"budget {found['budget_ms']:g} ms"
    memory = "not told by this system"
    if found["memory_mb"] is not None:
        memory = f"{found['memory_mb']:.0f} MB of {found['memory_available_mb']:.0f} MB free"
    return [
        f"self-test: {found['golden_pictures']} golden pictures off by {found['golden_deviation']:.2g} at most "
        f"(allowed {found['golden_tolerance']:g}), {found['provider']}",
        f"self-test: {found['best_ms']:.3f} ms, over all turns {found['p50_ms']:.3f} (p95 {found['p95_ms']:.3f}, "
        f"p99 {found['p99_ms']:.3f}, cv {found['cv']:.2f}; {budget}), memory {memory}",
    ]
