"""Trainings that several processes do together; `python -m torch.distributed.run ... two_ranks.py FOLDER`."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from export.runtime.errors import UsageError
from factory.data.dataset import Part
from factory.profiles import Augmentation
from factory.spaces.network import build
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan
from factory.swapout.schedule import Noise, Schedule
from factory.training import ranks
from factory.training.checkpoint import Progress
from factory.training.compute import Compute
from factory.training.loop import fit
from factory.training.pictures import standard
from factory.training.recipe import Recipe
from factory.training.steps import DivergedError
from factory.training.teaching import Teaching, fixed
from factory.workspace import write_json

GENOME = "stem_w8_s2-basic_w8_d2_k3_e1_s1-basic_w16_d1_k3_e1_s2"
NOISE = Noise.swapout(Schedule.per_block((1.0, 0.75, 0.5)))
JOBS: dict[str, dict[str, object]] = {
    "two parts": {"parts": 2},
    "four parts, averaged": {"parts": 4, "averaging": 0.9, "patience": 2, "learning_rate": 1.0, "epochs": 12},
    "short of memory": {"parts": 2},
    "diverging": {"parts": 2, "learning_rate": 1e35},
    "taught": {"parts": 2, "epochs": 2},
    "resumed": {"parts": 2},  # from what "two parts" had after two epochs
}


class Narrow(nn.Module):
    """Has memory for no more than four images in the process of the last rank."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        last = ranks.own(ranks.size())[-1] == ranks.size() - 1
        if torch.is_grad_enabled() and last and len(x) > 4:
            raise torch.OutOfMemoryError
        logits: Tensor = self.network(x)
        return logits


def part(count: int, seed: int) -> Part:
    """Noise whose brightness leans to the class."""
    labels = np.arange(count, dtype=np.int64) % 2
    images = np.random.default_rng(seed).integers(0, 200, (count, 16, 16, 1), np.uint8)
    return Part(images + (40 * labels[:, None, None, None]).astype(np.uint8), labels, (), ())


def run(folder: Path) -> None:
    """Do every job and leave its weights, history and error."""
    folder.mkdir()
    train, val = part(50, 0), part(20, 1)
    for name, changes in JOBS.items():
        torch.manual_seed(0)
        network: nn.Module = build(plan(parse(GENOME), Input(16, 16, 1), 2), NOISE)
        network = Narrow(network) if name == "short of memory" else network
        usual = {"epochs": 4, "learning_rate": 0.1}
        recipe = Recipe(
            batch=16,
            weight_decay=5e-4,
            label_smoothing=0.1,
            class_weights=True,
            augmentation=Augmentation(flip_horizontal=True),
            seed=0,
            **(usual | changes),  # type: ignore[arg-type]
        )
        answers = np.random.default_rng(2).normal(size=(50, 2)).astype(np.float32)
        teaching = Teaching(fixed(answers, "cpu"), 2.0, 0.5) if name == "taught" else None
        compute, epochs = Compute("cpu", "float32", 1), []

        def on_epoch(progress: Progress, name: str = name, epochs: list[int] = epochs) -> None:
            epochs.append(progress.epoch)
            if name == "two parts" and progress.epoch == 2:
                shutil.copy(folder / f"{name}.checkpoint", folder / "resumed.checkpoint")

        try:
            history = fit(
                network, train, val, standard(train.images), recipe, compute, folder / f"{name}.checkpoint",
                on_epoch, teaching,
            )  # fmt: skip
            assert epochs == list(range(2 if name == "resumed" else 1, len(history) + 1))
            write_json(folder / f"{name}.json", history)
        except DivergedError as error:
            write_json(folder / f"{name}.json", str(error))
        save_file({n: t.contiguous() for n, t in network.state_dict().items()}, folder / f"{name}.safetensors")


class BrokenOffError(Exception):
    """Stands for a full disk, Ctrl-C, a mistake: the leader leaves amid a training that the others are at."""


def broken_off(folder: Path, parts: int) -> None:
    """A training that the leader breaks off after an epoch."""

    def on_epoch(_: Progress) -> None:
        raise BrokenOffError

    recipe = Recipe(9, 16, 0.1, 0.0, 0.0, False, Augmentation(), 0, parts=parts)
    network = build(plan(parse(GENOME), Input(16, 16, 1), 2))
    train, val = part(50, 0), part(20, 1)
    fit(
        network,
        train,
        val,
        standard(train.images),
        recipe,
        Compute("cpu", "float32", 1),
        folder / "broken off.checkpoint",
        on_epoch,
    )


def refused(folder: Path) -> None:
    """What a training says that cannot be shared out."""
    try:
        broken_off(folder, 1)
    except UsageError as error:
        (folder / "refused.txt").write_text(str(error), encoding="utf-8")


def threads() -> str:
    """The names of this process's threads, the main one first."""
    tasks = sorted(Path("/proc/self/task").iterdir(), key=lambda task: task.name != str(os.getpid()))
    return " ".join((task / "comm").read_text().strip() for task in tasks)


if __name__ == "__main__":
    place, leads = Path(sys.argv[1]), False
    try:
        with ranks.joined() as leads:
            if leads:
                run(place)
                refused(place)
                broken_off(place, 2)
    except BrokenOffError:
        (place / "broken off").touch()
    (place / f"left {'leader' if leads else 'other'}").write_text(threads())
