"""How far a student follows its teacher, settled by short trainings, and what the lessons gave it."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch
from numpy import float32
from numpy.typing import NDArray

from factory.data.dataset import Dataset
from factory.profiles import LineProfile
from factory.spaces.network import build
from factory.spaces.plan import Plan
from factory.training import modes
from factory.training.compute import Compute
from factory.training.loop import fit
from factory.training.pictures import Standard
from factory.training.recipe import Recipe
from factory.training.teacher import TEMPERATURES, WEIGHTS, Expert, answer, choose, load_answers
from factory.training.teaching import Teaching, fixed
from factory.workspace import read_json, write_json

TRIED: Final = len(TEMPERATURES) * len(WEIGHTS)  # short trainings of `settle`
TEACHER, ALONE, TAUGHT = "teacher", "student alone", "student taught"
GAPS: Final = ((TAUGHT, ALONE), (TAUGHT, TEACHER))


def lessons(expert: Expert, data: Dataset, recipe: Recipe, compute: Compute, folder: Path) -> None:
    """Write what `expert` says of the images of `data`, train, val and test .npy, and its cost into `folder`."""
    parts = {"train": data.train.images, "val": data.val.images, "test": data.test.images}
    answer(expert, parts, recipe.augmentation, compute, folder)
    torch.set_num_threads(1)
    few = torch.from_numpy(data.test.images[: modes.TIMED]).to(compute.device).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        ms = modes.cost(lambda: expert(few), len(few))
    write_json(folder / "cost.json", {"ms": ms})


def settle(
    plan: Plan,
    recipe: Recipe,
    data: Dataset,
    norm: Standard,
    compute: Compute,
    answers: NDArray[float32],
    folder: Path,
    tick: Callable[[], None],
) -> None:
    """Write teaching.json: the temperature and weight of the best short training with the teacher, and all tried.

    `answers` are the teacher's logits (N, K) of the training images; `tick` is called `TRIED` times.
    """
    teacher = fixed(answers, compute.device)

    def short(temperature: float, weight: float) -> float:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            network = build(plan)
        teaching = Teaching(teacher, temperature, weight)
        with TemporaryDirectory() as place:
            checkpoint = Path(place) / "checkpoint"
            history = fit(network, data.train, data.val, norm, recipe, compute, checkpoint, lambda _: None, teaching)
        tick()
        return min(row["val_loss"] for row in history if row["val_loss"] is not None)

    best, tried = choose(short)
    write_json(folder / "teaching.json", {"tried": [asdict(each) for each in tried], "chosen": asdict(best)})


def settled(settling: Path, lessons: Path, compute: Compute) -> Teaching:
    """The teaching that `settle` chose, with the answers of `lessons`."""
    chosen = read_json(settling / "teaching.json")["chosen"]
    return Teaching(fixed(load_answers(lessons, "train"), compute.device), chosen["temperature"], chosen["weight"])


def compare_lessons(
    line: LineProfile,
    data: Dataset,
    lessons: Path,
    students: tuple[modes.Mode, modes.Mode],
    norm: Standard,
    compute: Compute,
    folder: Path,
) -> None:
    """Write tuition.json: teacher, student alone and student taught on the test images, and what teaching gave."""
    val, test = (load_answers(lessons, name) for name in ("val", "test"))
    asked = {TEACHER: modes.Asked(val, test, read_json(lessons / "cost.json")["ms"])}
    for name, student in zip((ALONE, TAUGHT), students, strict=True):
        asked[name] = modes.ask(student, data, norm, compute)
    modes.compare(line, data, asked, GAPS, folder / "tuition.json")
