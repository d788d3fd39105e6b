"""Does one search for two kinds of station find for each what a search of its own would?

python -m tests.benchmarks kinds

Space `residual`, 32 x 32 grey made pictures, this machine with one thread as both kinds: one roomy (0.15 ms, 1 MB),
one tight (0.06 ms, 0.1 MB). Searches of 600 candidates for each alone, and one for both, which seeks 300 or 600 for
each. What counts is the score of the best that keeps the budgets, measured, of different kinds (`shortlist` takes the
best of several), over that of the search alone; medians of three seeds.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from factory.cost.book import LatencyBook
from factory.cost.table import load_table, measure_table
from factory.data.dataset import Part
from factory.engine import Serial
from factory.evidence.pictures import load_pictures
from factory.profiles import BudgetLimits, SearchSettings, load_device
from factory.score.calibration import CALIBRATED
from factory.search.candidate import Pricing
from factory.search.nominate import diverse
from factory.search.run import load_search, search
from factory.search.target import Target
from factory.spaces.plan import Input
from factory.training.pictures import standard

SEEDS, CANDIDATES, SHORTLIST, PICTURES = 3, 600, 3, 64
PICTURE: Final = Input(32, 32, 1)
ROOMY: Final = BudgetLimits(device="cpu-x86", latency_ms=0.15, size_mb=1.0)
TIGHT: Final = BudgetLimits(device="tight", latency_ms=0.06, size_mb=0.1)


def _target(limits: BudgetLimits, book: LatencyBook, folder: Path) -> Target:
    place = folder / limits.device
    place.mkdir()
    measure_table(PICTURE, 2, limits, book, place, lambda: None)
    table = load_table(place)
    return Target(Pricing(PICTURE, 2, limits, table.model), table, book, CALIBRATED)


def _best(
    targets: Sequence[Target], candidates: int, seed: int, pictures: Part, folder: Path
) -> dict[str, list[float]]:
    """Scores of the best of different kinds that a search finds, by device."""
    settings = SearchSettings(candidates=candidates, seed=seed, repeats=1)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        norm = standard(pictures.images)
        search(settings, targets, pictures, norm, Serial(), place, lambda _: None, lambda _: None)
        found = {target.device: load_search(place, target.device).candidates for target in targets}
    kept = {device: [c for c in own if c.measured_ms is not None] for device, own in found.items()}
    return {device: [c.score for c in diverse(own, SHORTLIST)] for device, own in kept.items()}


def main() -> None:
    """Print the ratios of every seed, and their medians."""
    grey = load_pictures(None, PICTURES, PICTURE.height, 0).mean(1).numpy()
    images = np.clip(128 + 40 * grey, 0, 255).astype(np.uint8)[..., np.newaxis]
    pictures = Part(images, np.arange(PICTURES) % 2, ("",) * PICTURES, ("",) * PICTURES)
    rows: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        book = LatencyBook(folder, load_device("cpu-x86"))
        targets = [_target(limits, book, folder) for limits in (ROOMY, TIGHT)]
        print("| seed | searched | device | best, of that alone | best three, of those alone |\n|---|---|---|---|---|")
        for seed in range(SEEDS):
            alone = {t.device: _best([t], CANDIDATES, seed, pictures, folder)[t.device] for t in targets}
            for label, number in (("both, 300 each", CANDIDATES // 2), ("both, 600 each", CANDIDATES)):
                for device, scores in _best(targets, number, seed, pictures, folder).items():
                    first = scores[0] / alone[device][0]
                    three = float(np.mean(scores) / np.mean(alone[device]))
                    rows.setdefault((label, device), []).append(first)
                    rows.setdefault((label, f"{device}, three"), []).append(three)
                    print(f"| {seed} | {label} | {device} | {first:.3f} | {three:.3f} |", flush=True)
    for (label, device), ratios in rows.items():
        print(f"{label}, {device}: median {np.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")
