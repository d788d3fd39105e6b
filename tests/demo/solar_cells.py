"""Lay out the elpv-dataset package's images for the demo line: `python tests/demo/solar_cells.py FOLDER`.

2,624 electroluminescence images of solar cells, each with the probability of a defect that experts gave: 0, 1/3,
2/3 or 1 (Buerhop-Lutz et al. 2018; CC-BY-NC-SA-4.0, non-commercial). Raw labels become p000, p033, p067, p100; the
line profile says what they count as.
"""

import csv
import shutil
import sys
from pathlib import Path

import elpv_dataset


def lay_out(folder: Path) -> None:
    """Copy the images into `folder` and write labels.csv behind them, so that it marks a complete copy."""
    source = Path(elpv_dataset.__file__).parent / "data"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for line in (source / "labels.csv").read_text().splitlines():
        path, probability, _kind = line.split()
        shutil.copyfile(source / path, folder / path)
        rows.append((path, f"p{round(float(probability) * 100):03d}"))
    partial = folder / "labels.csv.partial"
    with partial.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    partial.replace(folder / "labels.csv")


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
