"""No silent way back to an older bundle: whoever signed it once, what was wrong with it may be known by now."""

from collections.abc import Callable
from pathlib import Path

from export.runtime.errors import GateError
from export.runtime.install.state import State
from export.runtime.manifest import Manifest
from export.runtime.trust_store import oldest_allowed


def check_age(manifest: Manifest, state: State, *, allow_older: bool, say: Callable[[str], None]) -> None:
    """Raise GateError for a bundle made before the newest one that was ever installed of its line.

    With ``allow_older`` that is said, and no error.
    """
    newest = state.newest.get(manifest.line)
    if newest is None or manifest.created >= newest:  # both are UTC in one spelling, which sorts as time does
        return
    if allow_older:
        say(f"WARNING: an OLDER bundle is installed, made at {manifest.created}; one of {newest} was here already")
        return
    raise GateError(
        f"the bundle is older than one that was installed here for the line {manifest.line}",
        expected=f"made at {newest} or later",
        found=manifest.created,
        fix="`station rollback` goes back to what ran before; to install the older one all the same: --allow-older",
    )


def check_allowed(manifest: Manifest, store: Path) -> None:
    """Raise GateError for a bundle older than what the trust statement in the store allows of its line."""
    oldest = oldest_allowed(store, manifest.line)
    if oldest is not None and manifest.created < oldest:
        raise GateError(
            f"the trust statement forbids this bundle of the line {manifest.line}",
            expected=f"made at {oldest} or later",
            found=manifest.created,
            fix="Install a newer bundle; who signs the trust statement decides what may still run",
        )
