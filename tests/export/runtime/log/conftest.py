"""Entries and logs to try things on; test files cannot import one another."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from export.runtime.log.log import Entry, Log

BUNDLE = "0123456789abcdef"


@pytest.fixture(scope="session")
def entry() -> Callable[..., Entry]:
    """Build an entry: of the n-th part, good, with fields given by keyword laid over its own."""

    def build(number: int = 0, **changes: Any) -> Entry:
        known: dict[str, Any] = {
            "part": f"part-{number}",
            "source": f"part-{number}.png:1000:{number}",
            "time": f"2026-01-31T12:{number // 60 % 60:02}:{number % 60:02}.123Z",
            "bundle": BUNDLE,
            "verdict": "pass",
            "label": "good",
            "score": 0.25,
            "threshold": 0.4,
            "novelty": 1.5,
            "brightness": 128.25,
            "sharpness": 7.5,
            "ms": 0.75,
            "sha256": None,
            "kept": None,
            "reason": None,
            "fault": None,
        }
        return Entry(**(known | changes))

    return build


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def log(store: Path) -> Iterator[Log]:
    with Log(store, keep_passes=0.0, pictures_mb=1.0) as opened:
        yield opened
