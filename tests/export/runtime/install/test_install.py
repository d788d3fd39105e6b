import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.errors import BundleRefused, EnvironmentLacks, GateError, UsageError
from export.runtime.install import age
from export.runtime.install.install import install, rollback
from export.runtime.install.installed import lines, load_installed, status
from export.runtime.install.lock import locked
from export.runtime.install.state import Version, bundle_folder, read_state
from export.runtime.manifest import JsonObject, Runtime, bundle_id
from tests.power import in_this_process

Keys = Mapping[str, Ed25519PublicKey]
Bundles = tuple[Path, Path, Path]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def put(store: Path, keys: Keys, said: list[str]) -> Callable[..., Version]:
    def run(bundle: Path, *, allow_older: bool = False) -> Version:
        return install(bundle, keys, store, allow_older=allow_older, say=said.append, test=in_this_process)

    return run


Put = Callable[..., Version]


def ids(bundles: Bundles) -> list[str]:
    return [bundle_id((bundle / "manifest.json").read_bytes()) for bundle in bundles]


def copies(store: Path) -> set[str]:
    return {path.name for path in (store / "bundles").iterdir()}


def test_what_is_installed_runs_from_the_stations_own_copy(
    put: Put, bundles: Bundles, store: Path, keys: Keys, tiny: object
) -> None:
    version = put(bundles[0])
    original = {path.relative_to(bundles[0]): path.read_bytes() for path in bundles[0].rglob("*") if path.is_file()}
    copy = bundle_folder(store, version.bundle)
    assert {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()} == original
    shutil.rmtree(bundles[0])  # the stick is pulled
    station = load_installed(store, keys)
    assert station.inspect(copy / "golden" / "001.png").verdict == "reject"
    assert (version.line, version.created) == ("cells-3", "2025-01-01T12:00:00Z")
    assert version.key_id in keys and read_state(store).current == version


def test_two_versions_stay_and_older_copies_go(put: Put, bundles: Bundles, store: Path) -> None:
    a, b, c = ids(bundles)
    for bundle, there in zip(bundles, ({a}, {a, b}, {b, c}), strict=True):
        put(bundle)
        assert copies(store) == there
    state = read_state(store)
    assert (state.current and state.current.bundle, state.previous and state.previous.bundle) == (c, b)


def test_a_person_s_own_files_in_the_folder_of_bundles_are_left_alone(put: Put, bundles: Bundles, store: Path) -> None:
    (store / "bundles" / "kept by hand").mkdir(parents=True)
    (store / "bundles" / ".0123456789abcdef.partial").mkdir()
    (store / "bundles" / "0123456789abcdef").symlink_to(bundles[1], target_is_directory=True)
    put(bundles[0])
    assert copies(store) == {ids(bundles)[0], "kept by hand"}
    assert (bundles[1] / "manifest.json").exists()


def test_installing_what_runs_does_nothing(put: Put, bundles: Bundles, store: Path, said: list[str]) -> None:
    first = put(bundles[0])
    before = (store / "state.json").stat().st_mtime_ns
    assert put(bundles[0]) == first
    assert said[-1] == f"bundle {first.bundle} runs already, since {first.since}"
    assert (store / "state.json").stat().st_mtime_ns == before


def test_a_damaged_copy_is_made_good_by_installing_again(put: Put, bundles: Bundles, store: Path, keys: Keys) -> None:
    put(bundles[0])
    version = put(bundles[1])
    (bundle_folder(store, version.bundle) / "model.onnx").write_bytes(b"rotten")
    with pytest.raises(BundleRefused, match=r"model\.onnx was changed"):
        load_installed(store, keys)
    put(bundles[1])
    load_installed(store, keys)
    state = read_state(store)
    assert state.previous is not None and state.previous.bundle == ids(bundles)[0]


def test_an_older_bundle_needs_to_be_asked_for(put: Put, bundles: Bundles, store: Path, said: list[str]) -> None:
    a, b, _ = ids(bundles)
    put(bundles[1])
    with pytest.raises(GateError, match=r"older than one that was installed.*2025-02-01.*--allow-older") as told:
        put(bundles[0])
    assert told.value.exit_code == 1
    assert copies(store) == {b} and read_state(store).newest == {"cells-3": "2025-02-01T12:00:00Z"}
    put(bundles[0], allow_older=True)
    assert any(text.startswith("WARNING: an OLDER bundle") for text in said)
    state = read_state(store)
    assert state.current is not None and state.current.bundle == a
    assert state.newest == {"cells-3": "2025-02-01T12:00:00Z"}  # still the newest ever
    put(bundles[0])  # which runs: no question of age
    put(bundles[1])  # made when the newest was


def test_another_line_is_said(put: Put, made: Callable[..., Path], bundles: Bundles, said: list[str]) -> None:
    put(bundles[1])
    put(made("other", 1, line="cells-4"))  # older, but of a line of which none was here
    assert any("for the line cells-4; until now this station ran cells-3" in text for text in said)


def test_what_the_trust_statement_forbids_is_never_run(
    put: Put, bundles: Bundles, store: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bundles[0])
    put(bundles[1])
    monkeypatch.setattr(age, "oldest_allowed", lambda store, line: "2025-02-15T00:00:00Z")
    for refused in (lambda: put(bundles[0], allow_older=True), lambda: rollback(store, keys)):
        with pytest.raises(GateError, match=r"the trust statement forbids.*expected made at 2025-02-15"):
            refused()
    put(bundles[2])
    assert "forbids" in str(status(store, keys)["previous"]["problem"])


def test_a_bundle_that_fails_its_self_test_leaves_nothing_behind(
    put: Put, bundles: Bundles, store: Path, keys: Keys
) -> None:
    put(bundles[0])
    before = (store / "state.json").read_bytes()

    def failing(store: Path, bundle: str, trusted: Keys, runtime: Runtime | None) -> JsonObject:
        assert bundle in copies(store)
        raise GateError("too slow", expected="1 ms", found="2 ms", fix="Buy a faster one")

    with pytest.raises(GateError) as told:
        install(bundles[1], keys, store, allow_older=False, say=lambda text: None, test=failing)
    name = ids(bundles)[1]
    words = "failed its self-test and was not installed: too slow: expected 1 ms, found 2 ms. Buy a faster one"
    assert str(told.value) == f"bundle {name} {words}"
    assert (store / "state.json").read_bytes() == before and copies(store) == {ids(bundles)[0]}


def test_a_bundle_that_is_not_trusted_touches_nothing(put: Put, bundles: Bundles, store: Path, keys: Keys) -> None:
    (bundles[0] / "model.onnx").write_bytes(b"x")
    with pytest.raises(BundleRefused, match="was changed after signing"):
        put(bundles[0])
    with pytest.raises(BundleRefused, match="a key not trusted here"):
        install(bundles[1], {}, store, allow_older=True, say=lambda text: None, test=in_this_process)
    assert not store.exists()


def test_rollback_goes_back_and_back_again(put: Put, bundles: Bundles, store: Path, keys: Keys) -> None:
    a, b, _ = ids(bundles)
    with pytest.raises(GateError, match=r"no version to go back to.*station install"):
        rollback(store, keys)
    put(bundles[0])
    with pytest.raises(GateError, match="no version to go back to"):
        rollback(store, keys)
    put(bundles[1])
    for running, before in ((a, b), (b, a)):
        assert rollback(store, keys).bundle == running
        state = read_state(store)
        assert state.previous is not None and state.previous.bundle == before
        load_installed(store, keys)
    assert read_state(store).failures == ()


def test_why_a_version_was_taken_back_is_kept_and_said_when_it_comes_again(
    put: Put, bundles: Bundles, store: Path, keys: Keys, said: list[str]
) -> None:
    put(bundles[0])
    bad = put(bundles[1])
    rollback(store, keys, "latency over the budget for 5 parts")
    (failure,) = read_state(store).failures
    assert (failure.bundle, failure.reason) == (bad.bundle, "latency over the budget for 5 parts")
    put(bundles[1])
    assert any("was taken back here" in text and failure.reason in text for text in said)
    assert read_state(store).failures == (failure,)


def test_rollback_trusts_nothing_that_lies_in_the_store(put: Put, bundles: Bundles, store: Path, keys: Keys) -> None:
    a, b, _ = ids(bundles)
    put(bundles[0])
    put(bundles[1])
    before = (store / "state.json").read_bytes()
    with pytest.raises(BundleRefused, match="a key not trusted here"):
        rollback(store, {})
    shutil.rmtree(bundle_folder(store, a))
    with pytest.raises(BundleRefused, match="no bundle at"):
        rollback(store, keys)
    shutil.copytree(bundle_folder(store, b), bundle_folder(store, a))  # signed, but another one
    with pytest.raises(BundleRefused, match=f"another bundle: expected {a}, found {b}"):
        rollback(store, keys)
    assert (store / "state.json").read_bytes() == before


def test_one_install_at_a_time_and_a_rollback_meanwhile(put: Put, bundles: Bundles, store: Path, keys: Keys) -> None:
    a, _, c = ids(bundles)
    put(bundles[0])
    put(bundles[1])

    def meanwhile(store: Path, bundle: str, trusted: Keys, runtime: Runtime | None) -> JsonObject:
        with pytest.raises(UsageError, match=r"another install is at work.*install\.lock"):
            put(bundles[1])
        rollback(store, keys, "it failed while another was tested")
        return {}

    install(bundles[2], keys, store, allow_older=False, say=lambda text: None, test=meanwhile)
    state = read_state(store)
    assert (state.current and state.current.bundle, state.previous and state.previous.bundle) == (c, a)
    assert copies(store) == {a, c} and len(state.failures) == 1
    with locked(store / "install.lock", "taken"):
        rollback(store, keys)


def test_a_store_that_cannot_be_used_is_one_error(put: Put, bundles: Bundles, store: Path) -> None:
    store.write_text("a file where the folder should be")
    with pytest.raises(EnvironmentLacks, match=r"could not be changed.*store"):
        put(bundles[0])


def test_status_tells_what_runs_and_what_is_wrong_with_it(put: Put, bundles: Bundles, store: Path, keys: Keys) -> None:
    assert status(store, keys)["current"] is None
    assert lines(status(store, keys)) == [f"nothing is installed in {store}"]
    put(bundles[0])
    put(bundles[1])
    rollback(store, keys, "it was slow")
    document = status(store, keys)
    assert [document[which]["problem"] for which in ("current", "previous")] == [None, None]
    text = "\n".join(lines(document))
    a, b, _ = ids(bundles)
    assert f"runs: bundle {a} of the line cells-3, made at 2025-01-01T12:00:00Z" in text
    assert f"would bring back bundle {b}" in text and f"bundle {b}: it was slow" in text and "trusted here" in text
    document = status(store, {})
    assert document["current"]["key_trusted"] is False and "not trusted here" in document["current"]["problem"]
    assert "NO LONGER TRUSTED" in "\n".join(lines(document))
