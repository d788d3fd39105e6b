"""Install and rollback stopped at calls of every kind; the benchmark `power` stops at all of them."""

import errno
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.install import copies
from tests.power import Stage, scenes
from tests.syscalls import LOSSES, Call, Fault, unavailable

REASON = unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

Keys = Mapping[str, Ed25519PublicKey]
NAMES = ("first install", "update", "install of the previous", "rollback")


@pytest.fixture
def staged(bundles: tuple[Path, Path, Path], keys: Keys, tmp_path: Path) -> Callable[[str], Stage]:
    def stage(name: str) -> Stage:
        (scene,) = [scene for scene in scenes(bundles, keys) if scene.name == name]
        (tmp_path / "stage").mkdir()
        return Stage(scene, tmp_path / "stage")

    return stage


def chosen(calls: list[Call]) -> list[int]:
    """The first and the last call of each kind, and all that touch more than a file of a bundle."""
    names = [call.name for call in calls]
    ends = {names.index(name) for name in names} | {len(names) - 1 - names[::-1].index(name) for name in names}
    outside = {number for number, call in enumerate(calls) if "/bundles/" not in call.path or call.to}
    return sorted(ends | outside)


@pytest.mark.parametrize("name", NAMES)
def test_a_stop_at_any_call_leaves_a_whole_version(name: str, staged: Callable[[str], Stage]) -> None:
    stage = staged(name)
    numbers = chosen(stage.calls)
    assert {"fsync", "rename", "write", "openat"} <= {stage.calls[number].name for number in numbers}
    for loss in LOSSES:
        found = [stage.stopped(number, loss) for number in numbers]
        assert found == sorted(found, reverse=True)  # old up to the switch, new from there on
        assert found[0] == "old" and (loss != "none" or found[-1] == "new")


@pytest.mark.parametrize(("error", "on"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.EIO, False)])
@pytest.mark.parametrize("name", ["update", "rollback"])
def test_a_disk_that_fails_is_one_error_and_changes_nothing(
    error: int, on: bool, name: str, staged: Callable[[str], Stage]
) -> None:
    stage = staged(name)
    switch = max(number for number, call in enumerate(stage.calls) if call.to.endswith("state.json"))
    for number in chosen(stage.calls):
        code, found = stage.failed(Fault(number, error, on))
        if number <= switch:
            assert (code, found) == (3, "old"), stage.calls[number]
        elif number == switch + 1:  # flushing the folder: the switch stands, whether it is on disk is not known
            assert (code, found) == (3, "new") and stage.calls[number].name == "fsync"
        else:
            assert (code, found) == (0, "new"), stage.calls[number]


def test_what_is_not_flushed_is_found_out(staged: Callable[[str], Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk that loses what was not flushed is no empty threat: without one flush a station is lost."""
    monkeypatch.setattr(copies, "flush_tree", lambda folder: None)
    stage = staged("first install")
    with pytest.raises(Exception, match=r"changed after signing|cut short|not sound JSON"):
        stage.stopped(len(stage.calls) - 1, "torn")


def test_a_copy_whose_name_is_not_flushed_is_found_out(
    staged: Callable[[str], Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "flush", lambda folder: None)
    stage = staged("update")
    with pytest.raises(Exception, match="no bundle at"):
        stage.stopped(len(stage.calls) - 1, "undone")
