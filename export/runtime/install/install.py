"""Another bundle for this station, and the way back: what runs is never touched, only which one runs is switched."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.errors import EnvironmentLacks, FactoryError, GateError
from export.runtime.files import make_folder
from export.runtime.install.age import check_age, check_allowed
from export.runtime.install.copies import is_whole, put_copy, sweep, verify_copy
from export.runtime.install.lock import locked
from export.runtime.install.selftest import in_own_process
from export.runtime.install.state import Failure, State, Version, change_state, now, read_state
from export.runtime.manifest import JsonObject, Runtime, bundle_id
from export.runtime.trust import VerifiedBundle, verify_bundle

KEPT_FAILURES = 100


class Trial(Protocol):
    """How a copy in the store is tried before it may run."""

    def __call__(
        self, store: Path, bundle: str, trusted: Mapping[str, Ed25519PublicKey], runtime: Runtime | None
    ) -> JsonObject:
        """Return the figures to keep of the bundle with that id; raises GateError or EnvironmentLacks to refuse it."""
        ...


def install(
    bundle: Path,
    trusted: Mapping[str, Ed25519PublicKey],
    store: Path,
    *,
    allow_older: bool,
    say: Callable[[str], None],
    runtime: Runtime | None = None,
    test: Trial = in_own_process,
) -> Version:
    """Verify the bundle in a folder, copy it into the store, test it there, and make it the one that runs.

    What ran before stays as the previous version; older copies are removed. Whenever this is stopped, the station has
    a whole version to run, and the next call removes what was left. ``runtime`` is another than the bundle's own.

    Raises BundleRefused or GateError for a bundle that is not trusted, too old, or fails its test, EnvironmentLacks
    where this machine cannot run it or the store cannot be written, UsageError where another install is at work.
    Nothing has changed then.
    """
    verified = verify_bundle(bundle, trusted)
    name, manifest = bundle_id(verified.manifest_bytes), verified.manifest
    with _changing(store), locked(_made(store) / "install.lock", "another install is at work at this station"):
        state = read_state(store)
        check_allowed(manifest, store)
        sweep(store, state.bundles | {name})
        if state.current is not None and state.current.bundle == name and is_whole(store, name, trusted):
            say(f"bundle {name} runs already, since {state.current.since}")
            return state.current
        try:
            check_age(manifest, state, allow_older=allow_older, say=say)
            _tell(name, verified, state, say)
            put_copy(store, verified, trusted)
            say("self-test: golden pictures, latency and memory on this device")
            figures = _tested(test, store, name, trusted, runtime)
            new = Version(
                bundle=name,
                line=manifest.line,
                created=manifest.created,
                key_id=verified.key_id,
                since=now(),
                self_test=figures,
            )
            after = change_state(store, lambda before: _switched(before, new))
        except BaseException:
            # The switch may stand although its last step failed, so what it names is needed as well.
            with suppress(OSError, FactoryError):
                sweep(store, state.bundles | read_state(store).bundles)
            raise
        try:
            sweep(store, after.bundles)
        except OSError as error:
            say(f"an older copy could not be removed, the next install tries again: {error}")
        return new


def rollback(store: Path, trusted: Mapping[str, Ed25519PublicKey], reason: str | None = None) -> Version:
    """Make the previous version the one that runs, and return it; what ran becomes the previous version.

    With a ``reason`` what ran is written down as having failed. Nothing is tested or fetched: the copy is verified.

    Raises GateError where there is no previous version, BundleRefused where its copy is no longer whole or trusted,
    EnvironmentLacks where the store cannot be written. Nothing has changed then.
    """

    def back(state: State) -> State:
        if state.current is None or state.previous is None:
            raise GateError(
                "there is no version to go back to",
                expected="a bundle that ran here before the present one",
                found="none",
                fix="Install another bundle: station install BUNDLE",
            )
        check_allowed(verify_copy(store, state.previous.bundle, trusted).manifest, store)
        time = now()
        failed = () if reason is None else (Failure(bundle=state.current.bundle, when=time, reason=reason),)
        return replace(
            state,
            current=replace(state.previous, since=time),
            previous=state.current,
            failures=(*state.failures, *failed)[-KEPT_FAILURES:],
        )

    with _changing(store):
        current = change_state(store, back).current
    assert current is not None
    return current


def _switched(state: State, new: Version) -> State:
    # Installed again because its copy was damaged: the way back stays.
    again = state.current is not None and state.current.bundle == new.bundle
    newest = max(new.created, state.newest.get(new.line, ""))
    return replace(
        state,
        current=new,
        previous=state.previous if again else state.current,
        newest=state.newest | {new.line: newest},
    )


def _tell(name: str, verified: VerifiedBundle, state: State, say: Callable[[str], None]) -> None:
    """Say what a person should know before this bundle runs here."""
    line = verified.manifest.line
    if state.current is not None and state.current.line != line:
        say(f"WARNING: this bundle is for the line {line}; until now this station ran {state.current.line}")
    for failure in state.failures:
        if failure.bundle == name:
            say(f"WARNING: this bundle was taken back here at {failure.when}: {failure.reason}")


def _tested(
    test: Trial, store: Path, name: str, trusted: Mapping[str, Ed25519PublicKey], runtime: Runtime | None
) -> JsonObject:
    try:
        return test(store, name, trusted, runtime)
    except FactoryError as error:
        raise type(error)(
            f"bundle {name} failed its self-test and was not installed: {error.message}",
            expected=error.expected,
            found=error.found,
            fix=error.fix,
        ) from error


def _made(store: Path) -> Path:
    make_folder(store)
    return store


@contextmanager
def _changing(store: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentLacks(
            f"what is installed in {store} could not be changed",
            expected="a folder that can be written, with space left",
            found=(error.strerror or str(error)) + (f": {error.filename}" if error.filename else ""),
            fix="Free some space there, or mend what is wrong with it; `station status` says what runs",
        ) from error
