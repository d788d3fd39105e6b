"""The five rows of one network on four data sets: plain, and trained with Swapout and asked in its modes.

    python -m tests.benchmarks modes [--seeds 3] [--workers 2] [--data NAME]

Everything at 32 x 32: the lossless part of CIFAR-10 and the very same pictures as JPEG (their test set has 3,983
more), NEU steel, solar cells. The network is a residual one of 14 layers (widths 16, 32, 64); Swapout goes linearly
from 1 to 0.5, as in the paper. A seed draws weights, order, augmentation and masks; the pictures stay. Intervals are
over seeds and test images together. Answers are kept under RUNS/benchmarks/modes, so that it goes on from there.
"""

import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from scipy.special import log_softmax

from factory.data import dataset
from factory.data.dataset import Dataset, Part
from factory.engine import engine
from factory.profiles import Augmentation, InputSize, LineProfile, SwapoutSettings, load_line
from factory.spaces.network import build
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan
from factory.swapout.collapse import collapse
from factory.swapout.network import Network
from factory.training.compute import Compute, this_machine
from factory.training.finish import cure
from factory.training.full import recipe_of
from factory.training.loop import fit
from factory.training.modes import FINISHED, GAPS, compare_modes, five
from factory.training.paired import gain
from factory.training.pictures import standard
from factory.training.recipe import Recipe
from factory.workspace import read_json, write_json

GENOME: Final = "stem_w16_s1-basic_w16_d2_k3_e1_s1-basic_w32_d2_k3_e1_s2-basic_w64_d2_k3_e1_s2"
CIFAR: Final = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
EPOCHS: Final = {"cifar10-lossless": 15, "cifar10-jpeg": 15, "solar-cells": 40, "steel-surface": 40}
COMPUTE: Final = Compute("cpu", this_machine().dtype, 1)
SWAPOUT: Final = SwapoutSettings()
SIDE: Final = 32
CIFAR_VAL: Final = 1000
CIFAR_TEST: Final = 5000


def _jpegs(name: str, rows: list[int]) -> np.ndarray:
    archive = np.load(CIFAR / name, allow_pickle=False)
    offsets, data = archive["offsets"], archive["jpeg"].tobytes()
    return np.stack([np.asarray(Image.open(io.BytesIO(data[offsets[i] : offsets[i + 1]]))) for i in rows])


def _cifar(kind: str) -> Dataset:
    """The lossless part, or its twin as JPEG with more test pictures behind the twin's."""
    part = np.load(CIFAR / "cifar10_lossless_subset.npz", allow_pickle=False)
    train, test, truth = part["x_train"], part["x_test"], part["y_test"]
    if kind == "jpeg":
        halves = [part["jpeg_row_train"] < 25_000, part["jpeg_row_train"] >= 25_000]
        train = np.empty_like(train)
        for index, own in enumerate(halves):
            rows = (part["jpeg_row_train"][own] - 25_000 * index).tolist()
            train[own] = _jpegs(f"cifar10_jpeg_train_{index}.npz", rows)
        twins = part["jpeg_row_test"].tolist()
        others = [row for row in range(10_000) if row not in set(twins)][: CIFAR_TEST - len(twins)]
        test = _jpegs("cifar10_jpeg_test.npz", twins + others)
        truth = np.load(CIFAR / "cifar10_jpeg_test.npz", allow_pickle=False)["y"][twins + others]

    def taken(images: np.ndarray, labels: np.ndarray) -> Part:
        return Part(images, labels.astype(np.int64), (), tuple(map(str, labels)))

    own, held = slice(CIFAR_VAL, None), slice(CIFAR_VAL)
    labels = part["y_train"]
    names = tuple(map(str, part["class_names"]))
    return Dataset(names, None, taken(train[own], labels[own]), taken(train[held], labels[held]), taken(test, truth))


def load(name: str) -> tuple[LineProfile, Dataset, Recipe]:
    """A data set at 32 x 32, the profile that judges it, its recipe."""
    if name.startswith("cifar10"):
        profile, _ = load_line("steel-surface")  # a line that sorts, as CIFAR-10 does
        data = _cifar(name.removeprefix("cifar10-"))
        profile = profile.model_copy(update={"classes": profile.classes.model_copy(update={"labels": data.labels})})
        augmentation = Augmentation(flip_horizontal=True, shift=0.0625, brightness=0, contrast=0, noise=0)
        return profile, data, Recipe(EPOCHS[name], 64, 0.1, 5e-4, 0.0, False, augmentation, 0)
    profile, root = load_line(name)
    profile = profile.model_copy(update={"input": InputSize(height=SIDE, width=SIDE, channels=1)})
    with tempfile.TemporaryDirectory() as folder:
        dataset.prepare(profile, root, dataset.list_items(profile, root), Path(folder), lambda: None)
        data = dataset.load(profile, Path(folder))
    return profile, data, recipe_of(profile.training, EPOCHS[name])


class Rows:
    """All that one data set and seed cost, kept in a folder of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, job: tuple[str, int]) -> tuple[str, int]:
        """Train plain and with Swapout, finish both, ask in every mode."""
        name, seed = job
        folder = self.root / f"{name}-{seed}"
        if (folder / "modes.json").exists():
            return job
        folder.mkdir(parents=True, exist_ok=True)
        profile, data, recipe = load(name)
        norm, recipe = standard(data.train.images), replace(recipe, seed=seed)
        shape = plan(parse(GENOME), Input(SIDE, SIDE, data.train.images.shape[-1]), len(data.labels))
        trained: dict[str, Network] = {}
        cured: dict[str, Any] = {}
        for way, settings in (("plain", SwapoutSettings(method="plain")), ("swapout", SWAPOUT)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                trained[way] = build(shape, settings.noise)
            say = _said(f"{name} {seed} {way}")
            fit(trained[way], data.train, data.val, norm, recipe, COMPUTE, folder / f"{way}.fit", say)
            cured[way] = cure(trained[way], data, norm, recipe, COMPUTE, folder, say)
        write_json(folder / "cures.json", {way: [str(c) for c, _ in all_] for way, (_, _, all_) in cured.items()})
        reestimated = next(net for c, net in cured["swapout"][2] if c.name == "re-estimated")
        collapsed = {way: collapse(best).float() for way, (_, best, _) in cured.items()}
        asked = five(collapsed["plain"], trained["swapout"], reestimated, collapsed["swapout"])
        compare_modes(profile, data, asked, norm, COMPUTE, folder, lambda: None)
        return job


def _said(text: str) -> Callable[[Any], None]:
    return lambda p: print(f"{text}: epoch {p.epoch} loss {p.history[-1]['loss']:.3f}", flush=True)


def _table(root: Path, name: str, seeds: int) -> str:
    documents = [read_json(root / f"{name}-{seed}" / "modes.json") for seed in range(seeds)]
    logits = np.array([np.load(root / f"{name}-{seed}" / "logits.npy") for seed in range(seeds)])
    truth = load(name)[1].test.labels
    hits = (logits.argmax(-1) == truth).astype(np.float64)
    losses = -log_softmax(logits.astype(np.float64), axis=-1)[..., np.arange(len(truth)), truth]
    lines = [
        f"**{name}**: {len(truth)} test images, {seeds} seeds, {EPOCHS[name]} epochs",
        "",
        "| mode | balanced accuracy % | loss | calibration error | escape % | overkill % | ms |",
        "|---|---|---|---|---|---|---|",
    ]
    names = [row["name"] for row in documents[0]["rows"]]
    for index, mode in enumerate(names):
        own = [document["rows"][index] for document in documents]
        accuracy, loss = gain(hits[:, index], truth), gain(losses[:, index], truth)
        shares = ["-" if own[0][k] is None else f"{100 * np.mean([r[k]['value'] for r in own]):.1f}" for k in
                  ("escape", "overkill")]  # fmt: skip
        lines.append(
            f"| {mode} | {100 * accuracy.value:.2f} ({100 * accuracy.low:.2f} to {100 * accuracy.high:.2f}) "
            f"| {loss.value:.3f} ({loss.low:.3f} to {loss.high:.3f}) "
            f"| {np.mean([r['calibration_error'] for r in own]):.3f} | {' | '.join(shares)} "
            f"| {np.median([r['ms'] for r in own]):.3f} |"
        )
    for one, other in GAPS:
        a, b = names.index(one), names.index(other)
        accuracy, loss = gain(hits[:, a] - hits[:, b], truth), gain(losses[:, a] - losses[:, b], truth)
        lines.append(
            f"\n{FINISHED} less {other}: balanced accuracy {100 * accuracy.value:+.2f} "
            f"({100 * accuracy.low:+.2f} to {100 * accuracy.high:+.2f}) points, "
            f"loss {loss.value:+.4f} ({loss.low:+.4f} to {loss.high:+.4f})"
        )
    if name == "cifar10-jpeg":
        twins = hits[..., : len(np.load(CIFAR / "cifar10_lossless_subset.npz")["y_test"])].mean((0, 2))
        lines.append(f"\non the twins of the lossless test pictures, accuracy %: {np.round(100 * twins, 2).tolist()}")
    return "\n".join(lines)


def main(runs: Path, seeds: int, workers: int, names: tuple[str, ...]) -> None:
    """Train what is missing and print a table for each data set."""
    root = runs / "benchmarks" / "modes"
    jobs = [(name, seed) for seed in range(seeds) for name in names or EPOCHS]
    with engine("processes", workers, None) as pool:
        for name, seed in pool.map(Rows(root), jobs):
            print(f"done: {name} {seed}", flush=True)
    for name in names or EPOCHS:
        print(_table(root, name, seeds), end="\n\n")
