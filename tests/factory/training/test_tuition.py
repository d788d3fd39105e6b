import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from factory.data.dataset import Dataset
from factory.profiles import Augmentation, LineProfile
from factory.spaces.network import build
from factory.spaces.plan import Plan
from factory.swapout.collapse import collapse
from factory.swapout.network import Network
from factory.training.compute import Compute
from factory.training.loop import fit
from factory.training.modes import Mode
from factory.training.pictures import Standard, predict
from factory.training.recipe import Recipe
from factory.training.teacher import TEMPERATURES, WEIGHTS, answers, of_network
from factory.training.teaching import Teaching, fixed
from factory.training.tuition import ALONE, TAUGHT, TEACHER, TRIED, compare_lessons, lessons, settle, settled

Fresh = Callable[..., Network]
DataOf = Callable[..., Dataset]
RecipeOf = Callable[..., Recipe]
EXACT = Compute("cpu", "float32", 1)
NORM = Standard((0.3,), (0.2,))
FLIPPED = Augmentation(flip_horizontal=True)


def test_lessons_are_the_answers_on_every_part_and_their_cost(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    data, expert = data_of(train=20, val=10, test=12), of_network(fresh(), NORM, EXACT)
    lessons(expert, data, recipe_of(augmentation=FLIPPED), EXACT, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cost.json", "test.npy", "train.npy", "val.npy"]
    for name, part in (("train", data.train), ("val", data.val), ("test", data.test)):
        found = np.load(tmp_path / f"{name}.npy")
        assert found.shape == (len(part.labels), 2) and found.dtype == np.float32
        np.testing.assert_array_equal(found, answers(expert, part.images, FLIPPED, EXACT))
    assert json.loads((tmp_path / "cost.json").read_text())["ms"] > 0


def test_settling_tries_every_way_and_takes_the_best_that_listens(
    shape: Plan, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    data, recipe = data_of(train=32, val=16), recipe_of(epochs=1)
    told = 4 * np.eye(2, dtype=np.float32)[data.train.labels]  # a teacher that is always right
    ticks: list[None] = []
    settle(shape, recipe, data, NORM, EXACT, told, tmp_path, lambda: ticks.append(None))
    document = json.loads((tmp_path / "teaching.json").read_text())
    pairs = [(row["temperature"], row["weight"]) for row in document["tried"]]
    assert pairs == [(t, w) for t in TEMPERATURES for w in WEIGHTS]
    assert len(ticks) == len(pairs) == TRIED
    assert document["chosen"] == min(document["tried"], key=lambda row: row["val_loss"])
    assert len({row["val_loss"] for row in document["tried"]}) == TRIED  # each did train otherwise
    for row in (0, -1):  # the same once more by hand
        teaching = Teaching(fixed(told, "cpu"), *pairs[row])
        torch.manual_seed(recipe.seed)
        network = build(shape)
        history = fit(network, data.train, data.val, NORM, recipe, EXACT, tmp_path / f"{row}", lambda _: None, teaching)
        assert document["tried"][row]["val_loss"] == history[-1]["val_loss"]


def test_settling_moves_no_generator_of_others(
    shape: Plan, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    data = data_of(train=16, val=8)
    before = torch.get_rng_state()
    settle(shape, recipe_of(epochs=1), data, NORM, EXACT, np.zeros((16, 2), np.float32), tmp_path, lambda: None)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_was_settled_is_read_back_with_the_lessons(tmp_path: Path) -> None:
    told = np.arange(12, dtype=np.float32).reshape(6, 2)
    np.save(tmp_path / "train.npy", told)
    chosen = {"temperature": 4.0, "weight": 0.9, "val_loss": 0.1}
    (tmp_path / "teaching.json").write_text(json.dumps({"tried": [], "chosen": chosen}))
    found = settled(tmp_path, tmp_path, EXACT)
    assert (found.temperature, found.weight) == (4.0, 0.9)
    rows = torch.tensor([5, 0])
    np.testing.assert_array_equal(found.teacher(rows, torch.zeros(2, 1, 24, 24)).numpy(), told[[5, 0]])


def test_teacher_and_students_stand_side_by_side_on_the_same_images(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, line_of: Callable[..., LineProfile], tmp_path: Path
) -> None:
    data, told = data_of(val=20, test=30), tmp_path / "lessons"
    told.mkdir()
    nets = [collapse(fresh(swapout=False, seed=seed).eval()).float() for seed in range(3)]
    lessons(of_network(nets[0], NORM, EXACT), data, replace(recipe_of(), augmentation=FLIPPED), EXACT, told)
    students = Mode(nets[1]), Mode(nets[2])
    compare_lessons(line_of(), data, told, students, NORM, EXACT, tmp_path)
    document = json.loads((tmp_path / "tuition.json").read_text())
    assert [row["name"] for row in document["rows"]] == [TEACHER, ALONE, TAUGHT]
    truth = data.test.labels
    logits = [
        np.load(told / "test.npy"),
        predict(nets[1], data.test.images, NORM, EXACT),
        predict(nets[2], data.test.images, NORM, EXACT),
    ]
    losses = []
    for row, own in zip(document["rows"], logits, strict=True):
        powers = np.exp(own.astype(np.float64))
        each = -np.log(powers[np.arange(30), truth] / powers.sum(1))
        losses.append(np.mean([each[truth == k].mean() for k in (0, 1)]))
        assert row["loss"]["value"] == pytest.approx(losses[-1], rel=1e-5)
    assert document["rows"][0]["ms"] == json.loads((told / "cost.json").read_text())["ms"]
    over = {(row["name"], row["over"]): row["loss"]["value"] for row in document["gaps"]}
    assert over == {
        (TAUGHT, ALONE): pytest.approx(losses[2] - losses[1], abs=1e-6),
        (TAUGHT, TEACHER): pytest.approx(losses[2] - losses[0], abs=1e-6),
    }
