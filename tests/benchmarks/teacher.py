"""What a pretrained teacher gives a small student: the same student taught by labels alone and by the teacher too.

    python -m tests.benchmarks teacher [LINE] [--side 32] [--seeds 3] [--epochs N] [--teacher-epochs N]

One split of the line; seeds vary the trainings. For each seed the teacher is fine-tuned, its answers on the training
images are gathered, temperature and weight are chosen on validation by short trainings, and the student is trained by
one recipe: alone, alone for three times as long, and taught for as long as that. No Swapout. Rows are kept in
<runs>/teacher/LINE.jsonl; the gain is over the better of the two alone.
"""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.build.onnx import convert
from export.runtime.timing import measure
from factory.cost.book import open_runner
from factory.data import dataset
from factory.data.dataset import Dataset
from factory.profiles import InputSize, LineProfile, load_device, load_line
from factory.spaces.network import build
from factory.spaces.plan import Input, Plan
from factory.spaces.residual import parse, plan
from factory.training.compute import Compute, this_machine
from factory.training.full import recipe_of
from factory.training.loop import fit
from factory.training.metrics import Labels, balanced_accuracy, balanced_loss, bootstrap
from factory.training.pictures import Standard, predict, standard
from factory.training.pretrained import IMAGENET, Kind, Pretrained, finetune, load_finetuned, picture_for
from factory.training.teacher import PATIENCE, answers, choose, of_network
from factory.training.teaching import Teaching, fixed
from factory.workspace import read_json

STUDENT: Final = "stem_w16_s1-basic_w16_d1_k3_e1_s2-basic_w32_d1_k3_e1_s2-basic_w64_d1_k3_e1_s2"
COMPUTE: Final = Compute("cpu", this_machine().dtype, 1)
LONG: Final = "alone, as long"
NAMES: Final = ("teacher", "alone", LONG, "taught")
ROUNDS, SECONDS = 5, 0.5


@dataclass(frozen=True)
class Setting:
    """One comparison; a row belongs to the setting and seed that made it."""

    line: str
    side: int  # of the student's pictures, in pixels
    genome: str
    epochs: int
    short_epochs: int
    kind: Kind
    teacher_side: int
    teacher_epochs: int
    dtype: str = COMPUTE.dtype


@dataclass(frozen=True)
class Bench:
    """The line's pictures as student and teacher see them, with the same rows."""

    setting: Setting
    profile: LineProfile
    small: Dataset
    large: Dataset
    plan: Plan
    picture: InputSize
    folder: Path


def _decoded(profile: LineProfile, root: Path, size: InputSize) -> tuple[Dataset, dict[str, Any]]:
    resized = profile.model_copy(update={"input": size})
    with tempfile.TemporaryDirectory() as folder:
        dataset.prepare(resized, root, dataset.list_items(resized, root), Path(folder), lambda: None)
        return dataset.load(resized, Path(folder)), read_json(Path(folder) / "check.json")


def _student(
    bench: Bench, seed: int, epochs: int, teaching: Teaching | None
) -> tuple[nn.Module, list[dict[str, float | None]]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(bench.plan)
    data, norm = bench.small, standard(bench.small.train.images)
    recipe = replace(recipe_of(bench.profile.training, epochs), seed=seed)
    with tempfile.TemporaryDirectory() as folder:  # minutes at most: only whole trainings are kept
        checkpoint = Path(folder) / "checkpoint"
        history = fit(network, data.train, data.val, norm, recipe, COMPUTE, checkpoint, lambda _: None, teaching)
    return network, history


def _timed_student(bench: Bench, seed: int, teaching: Teaching | None, patience: int = 1) -> dict[str, Any]:
    start = time.monotonic()
    network, _ = _student(bench, seed, patience * bench.setting.epochs, teaching)
    seconds = time.monotonic() - start
    return {
        "seconds": seconds,
        **_judged(bench, predict(network, bench.small.test.images, standard(bench.small.train.images), COMPUTE)),
    }


def _judged(bench: Bench, logits: NDArray[np.float32]) -> dict[str, Any]:
    truth, decided = bench.small.test.labels, logits.argmax(1)
    return {
        "accuracy": balanced_accuracy(truth, decided),
        "loss": balanced_loss(truth, logits),
        "decided": decided.tolist(),
    }


def _teacher(bench: Bench, seed: int) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Fine-tune (going on from an interrupted one) and answer; the row, and the logits on the training images."""
    setting, settings = bench.setting, bench.profile.training.model_copy(update={"seed": seed})
    folder = bench.folder / f"{setting.line} {setting.kind} {setting.teacher_side} {setting.teacher_epochs} {seed}"
    folder.mkdir(exist_ok=True)
    row, logits = folder / "row.json", folder / "train.npy"
    if row.exists():
        return read_json(row), np.load(logits)
    start = time.monotonic()
    if not (folder / "teacher.safetensors").exists():
        finetune(
            setting.kind, bench.picture, settings, setting.teacher_epochs, bench.large, COMPUTE, folder,
            lambda p: print(f"  teacher: {p.epoch}/{setting.teacher_epochs}  {p.history[-1]}", flush=True),
        )  # fmt: skip
    network = load_finetuned(setting.kind, bench.picture, len(bench.large.labels), folder)
    ask = partial(
        answers,
        of_network(network, IMAGENET, COMPUTE),
        augmentation=settings.augmentation,
        compute=COMPUTE,
    )
    known = ask(images=bench.large.train.images)
    seconds = time.monotonic() - start
    found = {
        "seconds": seconds,
        "train_accuracy": balanced_accuracy(bench.large.train.labels, known.argmax(1)),
        "val_accuracy": balanced_accuracy(bench.large.val.labels, ask(images=bench.large.val.images).argmax(1)),
        **_judged(bench, ask(images=bench.large.test.images)),
    }
    np.save(logits, known)
    row.write_text(json.dumps(found))
    return found, known


def _taught(bench: Bench, seed: int, known: NDArray[np.float32]) -> dict[str, Any]:
    """Choose temperature and weight by short trainings, then train in full."""
    teacher = fixed(known, COMPUTE.device)

    def short(temperature: float, weight: float) -> float:
        epochs = PATIENCE * bench.setting.short_epochs
        _, history = _student(bench, seed, epochs, Teaching(teacher, temperature, weight))
        return min(row["val_loss"] for row in history if row["val_loss"] is not None)

    start = time.monotonic()
    best, tried = choose(short)
    choosing = time.monotonic() - start
    print(f"  chosen: {best}", flush=True)
    row = _timed_student(bench, seed, Teaching(teacher, best.temperature, best.weight), PATIENCE)
    return {**row, "chosen": asdict(best), "tried": [asdict(each) for each in tried], "choosing_seconds": choosing}


def _row(bench: Bench, seed: int, name: str) -> dict[str, Any]:
    if name in {"alone", LONG}:
        return _timed_student(bench, seed, None, PATIENCE if name == LONG else 1)
    found, known = _teacher(bench, seed)
    return found if name == "teacher" else _taught(bench, seed, known)


def _rows(bench: Bench, seeds: int) -> list[dict[str, Any]]:
    """All rows of the setting, running what is not in the file yet."""
    path, key = bench.folder / f"{bench.setting.line}.jsonl", asdict(bench.setting)
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rows = [row for row in kept if row["setting"] == key and row["seed"] < seeds]
    known = {(row["seed"], row["network"]) for row in rows}
    for seed, name in product(range(seeds), NAMES):
        if (seed, name) not in known:
            row = {"setting": key, "seed": seed, "network": name, **_row(bench, seed, name)}
            print(f"{bench.setting.line} seed {seed} {name}: {row['accuracy']:.4f}", flush=True)
            with path.open("a") as file:
                print(json.dumps(row), file=file)
            rows.append(row)
    return rows


def _latencies(bench: Bench) -> dict[str, float]:
    """Median ms of one frame of teacher and student, interleaved; latency does not depend on what was learned."""
    device, classes, norm = load_device("cpu-x86"), len(bench.small.labels), standard(bench.small.train.images)
    found: dict[str, list[float]] = {"teacher": [], "student": []}
    networks: dict[str, tuple[nn.Module, Standard, InputSize]] = {
        "teacher": (Pretrained(bench.setting.kind, classes, bench.picture), IMAGENET, bench.picture),
        "student": (build(bench.plan), norm, bench.profile.input),
    }
    runners: dict[str, tuple[Callable[[], Any], NDArray[np.uint8]]] = {}
    for name, (network, own, size) in networks.items():
        model = convert(network, own.mean, own.std, (size.height, size.width, size.channels)).SerializeToString()
        shape = replace(bench.plan, input=Input(size.height, size.width, size.channels))
        frame = np.random.default_rng(0).integers(0, 256, (1, size.height, size.width, size.channels), np.uint8)
        runners[name] = (partial(open_runner, model, shape, device), frame)
    for _ in range(ROUNDS):
        for name, (runner, frame) in runners.items():
            found[name].extend(measure([runner], frame, rounds=1, seconds=SECONDS)[0].samples_ms)
    return {name: float(np.median(samples)) for name, samples in found.items()}


def table(rows: list[dict[str, Any]], truth: Labels, latency: dict[str, float]) -> str:
    """Markdown: means over the seeds; intervals of resampled test images, in which all seeds and networks share."""
    decided = {name: np.array([row["decided"] for row in rows if row["network"] == name]) for name in NAMES}

    def mean(name: str, picked: Labels) -> float:
        return float(np.mean([balanced_accuracy(truth[picked], own[picked]) for own in decided[name]]))

    everything = np.arange(len(truth))
    lines = ["| network | balanced accuracy % | by seed | training s | p50 ms |", "|---|---|---|---|---|"]
    for name in NAMES:
        low, high = bootstrap(truth, partial(mean, name))
        own = [row for row in rows if row["network"] == name]
        seeds = ", ".join(f"{100 * row['accuracy']:.1f}" for row in own)
        seconds, ms = np.mean([row["seconds"] for row in own]), latency["teacher" if name == "teacher" else "student"]
        lines.append(
            f"| {name} | {100 * mean(name, everything):.1f} ({100 * low:.1f}-{100 * high:.1f}) | {seeds} "
            f"| {seconds:.0f} | {ms:.3f} |"
        )

    alone = max(("alone", LONG), key=lambda name: mean(name, everything))

    def gain(picked: Labels) -> float:
        return mean("taught", picked) - mean(alone, picked)

    low, high = bootstrap(truth, gain)
    distance = mean("teacher", everything) - mean(alone, everything)
    share = f"{100 * gain(everything) / distance:.0f} %" if distance > 0 else "no distance"
    gained = f"gain {100 * gain(everything):+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
    chosen = ", ".join(
        f"T {r['chosen']['temperature']:g} weight {r['chosen']['weight']:g}" for r in rows if "chosen" in r
    )
    return "\n".join([*lines, "", f"{gained}; share of the distance to the teacher closed: {share}; chosen: {chosen}"])


def main(
    line: str, runs: Path, side: int, seeds: int, epochs: int, genome: str, kind: Kind, teacher_side: int,
    teacher_epochs: int,
) -> None:  # fmt: skip
    """Run what is missing and print the table; 0 stands for the profile's own side and epochs, or the default side."""
    profile, root = load_line(line)
    size = profile.input if not side else profile.input.model_copy(update={"height": side, "width": side})
    profile = profile.model_copy(update={"input": size})
    small, check = _decoded(profile, root, size)
    width, height = map(int, next(iter(check["sizes"])).split("x"))
    picture = picture_for(size, (height, width), teacher_side or None)
    large, _ = _decoded(profile, root, picture)
    assert small.train.paths == large.train.paths and small.test.paths == large.test.paths
    training = profile.training
    setting = Setting(
        profile.name, size.height, genome, epochs or training.epochs, training.short_epochs,
        kind, picture.height, teacher_epochs,
    )  # fmt: skip
    shape = plan(parse(genome), Input(size.height, size.width, size.channels), len(small.labels))
    folder = runs / "teacher"
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(setting, profile, small, large, shape, picture, folder)
    print(setting, flush=True)
    print(table(_rows(bench, seeds), small.test.labels, _latencies(bench)))
