"""Small real lines that tests run on: pictures made here, written to disk, read back as a user's would be."""

from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image

from factory.cli import main

PROFILE = """
[images]
root = "{root}"

[classes]
labels = ["good", "scratch"]
good = "good"

[input]
height = 24
width = 24
channels = 1

[budget]
device = "cpu-x86"
latency_ms = {latency_ms}
size_mb = {size_mb}

[search]
candidates = 24
population = 12
repeats = 1
shortlist = 2
workers = {workers}

[training]
epochs = {epochs}
short_epochs = 1
batch = 8

[acceptance]
{acceptance}

[export]
also_for = {also_for}
"""


def _picture(rng: np.random.Generator, defect: bool, side: int) -> Image.Image:
    """Grey texture; a defective one has a dark scratch."""
    pixels = rng.normal(150, 25, (side, side))
    if defect:
        row, length = int(rng.integers(4, side - 6)), int(rng.integers(side // 2, side - 4))
        pixels[row : row + 3, 2 : 2 + length] -= 90
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def make_images(root: Path, number: int = 40, side: int = 24, *, shuffled: bool = False) -> Path:
    """Make class folders `good` and `scratch` of PNG pictures; `shuffled` labels have nothing to do with them."""
    rng = np.random.default_rng(0)
    for label, own in (("good", False), ("scratch", True)):
        (root / label).mkdir(parents=True)
        for index in range(number):
            defect = bool(index % 2) if shuffled else own
            _picture(rng, defect, side).save(root / label / f"{index:03d}.png")
    return root


def make_line(
    folder: Path,
    images: Path,
    *,
    latency_ms: float = 1.0,
    size_mb: float = 0.5,
    workers: int = 1,
    epochs: int = 8,
    acceptance: str = "",
    also_for: tuple[str, ...] = (),
) -> Path:
    """Write the profile of a tiny line; returns the path of the TOML file."""
    path = folder / "tiny.toml"
    path.write_text(
        PROFILE.format(
            root=images,
            latency_ms=latency_ms,
            size_mb=size_mb,
            workers=workers,
            epochs=epochs,
            acceptance=acceptance,
            also_for=list(also_for),
        )
    )
    return path


def factory(*arguments: str | Path) -> Result:
    """Call the command line in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])
