"""What many tests of the factory stand on: a line profile, small real pictures, small random data."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from factory.data.dataset import Dataset, Part
from factory.profiles import LineProfile

TABLES: dict[str, dict[str, Any]] = {
    "images": {"root": "images"},
    "classes": {"labels": ["good", "bad"], "good": "good"},
    "input": {"height": 24, "width": 24, "channels": 1},
    "budget": {"device": "cpu-x86", "latency_ms": 5.0, "size_mb": 1.0},
}


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small networks gain nothing from threads, and the last bits of a sum depend on their number.

    Only in the rooms: whole runs, whose tests lie in this folder itself, take the threads of the machine.
    """
    if request.path.parent == Path(__file__).parent:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def line_of() -> Callable[..., LineProfile]:
    """Build a line profile: a small valid one, with tables given by keyword laid over its own."""

    def build(**tables: dict[str, Any]) -> LineProfile:
        names = TABLES.keys() | tables.keys()
        document = {name: TABLES.get(name, {}) | tables.get(name, {}) for name in names}
        return LineProfile.model_validate_json(json.dumps({"name": "tiny", **document}))

    return build


@pytest.fixture
def paint() -> Callable[..., Path]:
    """Write a picture of seeded noise; equal seeds make equal pixels."""

    def write(path: Path, seed: int, size: tuple[int, int] = (24, 24)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, np.uint8)).save(path)
        return path

    return write


def _part(rng: np.random.Generator, count: int, classes: int, side: int, channels: int) -> Part:
    """Noisy pictures with a bright square whose place tells the class; classes in turn."""
    labels = np.arange(count, dtype=np.int64) % classes
    images = rng.integers(0, 120, (count, side, side, channels), np.uint8)
    for picture, label in zip(images, labels, strict=True):
        start = int(label) * side // classes
        picture[start : start + side // classes, : side // 2] += 100
    names = tuple(f"{i}.png" for i in range(count))
    return Part(images, labels, names, tuple(f"class {label}" for label in labels))


@pytest.fixture(scope="session")
def data_of() -> Callable[..., Dataset]:
    """Build a data set in memory that a small network can learn."""

    def build(
        train: int = 48, val: int = 24, test: int = 24, classes: int = 2, side: int = 24, channels: int = 1
    ) -> Dataset:
        rng = np.random.default_rng(0)
        parts = [_part(rng, count, classes, side, channels) for count in (train, val, test)]
        return Dataset(("good", "bad", "odd", "torn")[:classes], 0, *parts)

    return build
