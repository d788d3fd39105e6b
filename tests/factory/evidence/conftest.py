"""Small made-up tables of trained networks."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factory.evidence import measures


@pytest.fixture
def few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive the regulariser from few networks, so that a test is quick."""
    monkeypatch.setattr(measures, "SAMPLED", 8)


@pytest.fixture
def write_table(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as a CSV file."""

    def write(rows: list[dict[str, Any]], name: str = "table.csv") -> Path:
        path = tmp_path / name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


@pytest.fixture
def made_up(write_table: Callable[..., Path]) -> Callable[[str, int], Path]:
    """Write a table of distinct random networks of a space whose one column of architecture is `arch`."""

    def write(space: str, number: int) -> Path:
        rng = np.random.default_rng(5)
        chosen = measures.space_named(space)
        archs: dict[str, float] = {}
        while len(archs) < number:
            arch = chosen.sample(rng)
            if chosen.connected(arch):
                archs[arch] = round(float(rng.uniform(50, 90)), 3)
        return write_table([{"arch": arch, "accuracy": accuracy} for arch, accuracy in archs.items()])

    return write
