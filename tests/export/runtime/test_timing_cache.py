import sys
from pathlib import Path

import pytest

from export.runtime.timing_cache import TimingCache


@pytest.fixture
def cache(tmp_path: Path) -> TimingCache:
    return TimingCache(tmp_path / "timings", "11.4.0.106", "NVIDIA RTX A2000 / 6GB", "8.6")


def test_what_is_written_is_read_again(cache: TimingCache) -> None:
    assert cache.read() == b""
    with cache.locked():
        cache.write(b"timings")
        cache.write(b"newer timings")
    assert cache.read() == b"newer timings"
    assert {path.suffix for path in cache.path.parent.iterdir()} == {".timings", ".lock"}


def test_each_version_and_gpu_has_a_file_of_its_own(cache: TimingCache) -> None:
    known = ("11.4.0.106", "NVIDIA RTX A2000 / 6GB", "8.6")
    others = [("11.3.0.99", *known[1:]), (known[0], "NVIDIA RTX A4000", "8.6"), (*known[:2], "8.9")]
    paths = {TimingCache(cache.path.parent, *other).path for other in [known, *others]}
    assert len(paths) == 4
    assert cache.path in paths


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: b"x" + d[1:], lambda d: b"", lambda d: d + b"x"])
def test_a_damaged_file_is_set_aside_and_said(
    cache: TimingCache, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    with cache.locked():
        cache.write(b"timings")
    spoiled = damage(cache.path.read_bytes())  # type: ignore[operator]
    cache.path.write_bytes(spoiled)
    assert cache.read() == b""
    assert not cache.path.exists()
    assert cache.path.with_suffix(".damaged").read_bytes() == spoiled
    assert "it is damaged" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="asked of flock")
def test_a_build_has_the_cache_for_itself(cache: TimingCache) -> None:
    import fcntl

    with cache.locked(), cache.path.with_suffix(".lock").open("ab") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with cache.path.with_suffix(".lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
