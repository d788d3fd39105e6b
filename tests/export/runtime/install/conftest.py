"""Three bundles of one line, each made a month after the one before, and the keys that vouch for them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.trust import load_trusted


@pytest.fixture
def keys(trust: list[Path]) -> Mapping[str, Ed25519PublicKey]:
    return load_trusted(trust)


@pytest.fixture
def made(make_bundle: Callable[..., Path], tiny: SimpleNamespace, tmp_path: Path) -> Callable[..., Path]:
    """Make a bundle of that name, made in that month."""

    def make(name: str, month: int, **changes: object) -> Path:
        return make_bundle(asked=tiny.draft(created=f"2025-{month:02}-01T12:00:00Z", **changes)).rename(tmp_path / name)

    return make


@pytest.fixture
def bundles(made: Callable[..., Path]) -> tuple[Path, Path, Path]:
    return made("a", 1), made("b", 2), made("c", 3)
