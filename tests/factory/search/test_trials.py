from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from factory.data.dataset import Dataset
from factory.engine import Engine, Serial
from factory.engine.processes import Processes
from factory.profiles import TrainingSettings
from factory.search.trials import History, Trial, TrialBook
from factory.training.compute import Compute
from factory.training.full import recipe_of
from factory.training.pictures import standard
from factory.workspace import read_json

DataOf = Callable[..., Dataset]
A = "stem_w8_s2-basic_w8_d1_k3_e1_s1-basic_w8_d1_k3_e1_s2"
B = "stem_w8_s2-mb_w8_d1_k3_e2_s1-basic_w16_d1_k3_e1_s2"
C = "stem_w8_s2-basic_w8_d1_k3_e1_s1-bottle_w16_d1_k3_e2_s2"


class Counting:
    """The serial engine; it remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def map(self, task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        for item, result in zip(items, Serial().map(task, items), strict=True):
            self.asked.append(item)
            yield result


@pytest.fixture
def trial(data_of: DataOf) -> Trial:
    data = data_of(side=16, train=32, val=16)
    recipe = recipe_of(TrainingSettings(batch=16), 2)
    return Trial(data.train, data.val, 2, standard(data.train.images), recipe, Compute("cpu", "float32", 1))


def ran(book: TrialBook, genomes: list[str], engine: Engine) -> list[History]:
    ticks: list[str] = []
    histories = book.run(genomes, engine, ticks.append)
    assert sorted(ticks) == sorted(genomes)
    return histories


def test_each_network_is_trained_once_for_all_who_ask(tmp_path: Path, trial: Trial) -> None:
    path, engine = tmp_path / "line" / "trials.json", Counting()
    first = ran(TrialBook(path, trial, "data"), [A, B], engine)
    assert engine.asked == [A, B]
    again = ran(TrialBook(path, trial, "data"), [C, B, A], engine)
    assert engine.asked == [A, B, C]
    assert again[1:] == first[::-1]
    assert [len(history) for history in again] == [2, 2, 2]
    assert first[0] == trial(A) != first[1]
    assert set(first[0][-1]) == {"loss", "val_balanced_accuracy", "val_loss", "parts"}


def test_a_network_named_twice_is_trained_once(tmp_path: Path, trial: Trial) -> None:
    engine = Counting()
    histories = TrialBook(tmp_path / "trials.json", trial, "data").run([A, A], engine, lambda _: None)
    assert engine.asked == [A]
    assert histories[0] == histories[1]


class Stopped(Exception):  # noqa: N818
    pass


def test_what_was_trained_before_an_interruption_is_kept(tmp_path: Path, trial: Trial) -> None:
    path, engine = tmp_path / "trials.json", Counting()

    def stop_at(genome: str) -> None:
        if genome == B:
            raise Stopped

    with pytest.raises(Stopped):
        TrialBook(path, trial, "data").run([A, B, C], engine, stop_at)
    assert len(read_json(path)) == 2
    resumed = ran(TrialBook(path, trial, "data"), [A, B, C], engine)
    assert engine.asked == [A, B, C]
    assert resumed == ran(TrialBook(tmp_path / "other.json", trial, "data"), [A, B, C], Serial())


def test_other_images_another_recipe_or_other_compute_are_another_training(tmp_path: Path, trial: Trial) -> None:
    path = tmp_path / "trials.json"
    ran(TrialBook(path, trial, "data"), [A], Serial())
    longer = replace(trial, recipe=replace(trial.recipe, epochs=1))
    noisier = trial.recipe.augmentation.model_copy(update={"noise": 0.1})
    others = [
        TrialBook(path, trial, "other data"),
        TrialBook(path, longer, "data"),
        TrialBook(path, replace(trial, recipe=replace(trial.recipe, augmentation=noisier)), "data"),
        TrialBook(path, replace(trial, compute=Compute("cpu", "float32", 2)), "data"),
    ]
    for number, book in enumerate(others, 2):
        engine = Counting()
        ran(book, [A], engine)
        assert engine.asked == [A]
        assert len(read_json(path)) == number
    engine = Counting()
    ran(TrialBook(path, longer, "data"), [A], engine)
    assert engine.asked == []


def test_processes_train_as_this_one_does(tmp_path: Path, trial: Trial) -> None:
    here = ran(TrialBook(tmp_path / "a.json", trial, "data"), [A, B, C], Serial())
    pool = Processes(2)
    try:
        there = ran(TrialBook(tmp_path / "b.json", trial, "data"), [A, B, C], pool)
    finally:
        pool.stop()
    assert there == here
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_trial_depends_on_nothing_but_its_arguments(trial: Trial) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = trial(A)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert trial(A) == first
