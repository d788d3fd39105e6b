"""Train random networks of one latency budget on a line, so that a score can be checked without training again.

python -m tests.benchmarks train-many cifar10 --nets 48     (or solar-cells, steel-surface; all at 32 x 32)

Writes tests/benchmarks/trained/LINE.jsonl, a row a network, and goes on from what is there. `accuracy` (balanced) and
`loss` (balanced cross-entropy) are of images that the training never saw; `curve` is that loss along the training.
"""

import io
import json
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from factory.cost.book import LatencyBook
from factory.cost.count import count
from factory.cost.latency import LatencyModel
from factory.cost.table import load_table, measure_table
from factory.data import dataset
from factory.data.dataset import Part
from factory.engine import engine
from factory.profiles import Augmentation, BudgetLimits, InputSize, load_device, load_line
from factory.search.shortlist import outcome
from factory.search.trials import History, Trial
from factory.spaces.plan import Input
from factory.spaces.residual import plan, random_genome
from factory.training.compute import Compute, this_machine
from factory.training.full import recipe_of
from factory.training.pictures import standard
from factory.training.recipe import Recipe

TABLES: Final = Path(__file__).parent / "trained"
CIFAR: Final = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
COMPUTE: Final = Compute("cpu", this_machine().dtype, 1)
SIDE: Final = 32
LATENCY_MS, SIZE_MB = 0.15, 1.0
NEAR: Final = 0.5  # of the budget: below, a network is beaten by a larger one anyway
EPOCHS: Final = {"cifar10": 8, "solar-cells": 30, "steel-surface": 20}
SEEDS: Final = {"cifar10": 1, "solar-cells": 2, "steel-surface": 3}  # other networks on every line


def _jpegs(path: Path, number: int) -> Part:
    archive = np.load(path, allow_pickle=False)
    offsets, data = archive["offsets"], archive["jpeg"].tobytes()
    images = [np.asarray(Image.open(io.BytesIO(data[offsets[i] : offsets[i + 1]]))) for i in range(number)]
    return Part(np.stack(images), archive["y"][:number].astype(np.int64), (), ())


def _cifar() -> Trial:
    train, unseen = _jpegs(CIFAR / "cifar10_jpeg_train_0.npz", 8000), _jpegs(CIFAR / "cifar10_jpeg_test.npz", 5000)
    augmentation = Augmentation(flip_horizontal=True, shift=0.1, brightness=0, contrast=0, noise=0)
    recipe = Recipe(EPOCHS["cifar10"], 128, 0.05, 5e-4, 0.1, False, augmentation, 0)
    return Trial(train, unseen, 10, standard(train.images), recipe, COMPUTE)


def _line(name: str) -> Trial:
    profile, root = load_line(name)
    profile = profile.model_copy(update={"input": InputSize(height=SIDE, width=SIDE, channels=1)})
    with tempfile.TemporaryDirectory() as folder:
        dataset.prepare(profile, root, dataset.list_items(profile, root), Path(folder), lambda: None)
        data = dataset.load(profile, Path(folder))
    images = np.concatenate([data.val.images, data.test.images])
    unseen = Part(images, np.concatenate([data.val.labels, data.test.labels]), (), ())
    recipe = recipe_of(profile.training, EPOCHS[name])
    return Trial(data.train, unseen, len(data.labels), standard(data.train.images), recipe, COMPUTE)


def load_trial(line: str) -> Trial:
    """Read the images of a line; what is judged on is what the training never saw."""
    return _cifar() if line == "cifar10" else _line(line)


def latency_model(picture: Input, classes: int, folder: Path) -> LatencyModel:
    """This machine's table for 32 x 32 pictures, measured once."""
    limits = BudgetLimits(device="cpu-x86", latency_ms=LATENCY_MS, size_mb=SIZE_MB)
    if not (folder / "latency.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        measure_table(picture, classes, limits, LatencyBook(folder, load_device("cpu-x86")), folder, lambda: None)
    return load_table(folder).model


def _draw(picture: Input, classes: int, model: LatencyModel, seed: int) -> Iterator[tuple[str, float]]:
    rng = np.random.default_rng(seed)
    while True:
        genome = random_genome(rng, picture)
        network = plan(genome, picture, classes)
        latency = model.predict(network)
        if NEAR * LATENCY_MS <= latency <= LATENCY_MS and count(network).size_mb <= SIZE_MB:
            yield str(genome), round(latency, 5)


def _row(genome: str, latency: float, history: History) -> dict[str, object]:
    accuracy, loss = outcome(history)
    curve = [round(float(row["val_loss"]), 4) for row in history if row["val_loss"] is not None]
    return {
        "genome": genome,
        "latency_ms": latency,
        "accuracy": round(accuracy, 4),
        "loss": round(loss, 4),
        "curve": curve,
    }


def main(line: str, nets: int, workers: int) -> None:
    """Train until the table has `nets` rows."""
    trial = load_trial(line)
    picture = Input(SIDE, SIDE, trial.train.images.shape[-1])
    path = TABLES / f"{line}.jsonl"
    done = [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []
    model = latency_model(picture, trial.classes, Path("runs") / "train-many" / line)
    known = {row["genome"] for row in done}
    draws = (drawn for drawn in _draw(picture, trial.classes, model, SEEDS[line]) if drawn[0] not in known)
    wanted = list(islice(draws, nets - len(done)))
    with engine("processes", workers, None) as pool, path.open("a") as file:
        histories = pool.map(trial, [genome for genome, _ in wanted])
        for (genome, latency), history in zip(wanted, histories, strict=True):
            row = _row(genome, latency, history)
            print(json.dumps(row), file=file, flush=True)
            print(f"{line}: {row['accuracy']} {genome}", flush=True)
