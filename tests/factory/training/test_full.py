from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.runtime.errors import UsageError
from factory.data.dataset import Dataset
from factory.profiles import ScheduleSettings, SwapoutSettings, TrainingSettings
from factory.spaces.plan import Plan
from factory.swapout.layer import probabilities
from factory.training.checkpoint import Progress, read_tensors
from factory.training.compute import Compute
from factory.training.full import load_trained, recipe_of, train, with_swapout
from factory.training.loop import evaluate
from factory.training.pictures import standard
from factory.workspace import read_json

EXACT = Compute("cpu", "float32", 1)
SETTINGS = TrainingSettings(epochs=3, batch=16, learning_rate=0.1)


def trained(folder: Path, shape: Plan, data: Dataset, stop: int | None = None) -> None:
    def on_epoch(progress: Progress) -> None:
        if progress.epoch == stop:
            raise KeyboardInterrupt

    folder.mkdir(exist_ok=True)
    train(shape, SETTINGS, data, standard(data.train.images), EXACT, folder, on_epoch)


def test_a_full_training_leaves_weights_and_history_and_the_same_after_an_interruption(
    tmp_path: Path, shape: Plan, data_of: Callable[..., Dataset]
) -> None:
    trained(tmp_path / "one", shape, data_of())
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "two", shape, data_of(), stop=2)
    trained(tmp_path / "two", shape, data_of())
    names = ["history.json", "network.safetensors"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == names
    assert len(read_json(tmp_path / "one" / "history.json")) == 3


def test_the_trained_network_comes_back_as_it_was_evaluated(
    tmp_path: Path, shape: Plan, data_of: Callable[..., Dataset]
) -> None:
    data = data_of()
    trained(tmp_path / "one", shape, data)
    network = load_trained(shape, SETTINGS.swapout, tmp_path / "one")
    norm = standard(data.train.images)
    found = evaluate(network, data.train, data.val, norm, EXACT, regathered=True)
    best = min(read_json(tmp_path / "one" / "history.json"), key=lambda row: row["val_loss"])
    assert found == (best["val_balanced_accuracy"], best["val_loss"])


def test_training_does_not_move_the_global_generator(
    tmp_path: Path, shape: Plan, data_of: Callable[..., Dataset]
) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    trained(tmp_path / "one", shape, data_of())
    assert torch.equal(torch.get_rng_state(), state)


def test_keep_probabilities_follow_the_profile_over_depth(shape: Plan) -> None:
    network = with_swapout(shape, SwapoutSettings())
    assert probabilities(network) == [(1.0, 1.0), (0.75, 0.75), (0.5, 0.5)]
    settings = SwapoutSettings(method="stochastic-depth", branch=ScheduleSettings(blocks=(1.0, 0.875, 0.625)))
    assert probabilities(with_swapout(shape, settings)) == [(1.0, 1.0), (1.0, 0.875), (1.0, 0.625)]
    with pytest.raises(UsageError, match=r"training\.swapout: .*expected 3 values, found 2"):
        with_swapout(shape, SwapoutSettings(stream=ScheduleSettings(blocks=(1.0, 0.9))))


NEW = ("averaging", "patience", "parts")


def test_the_recipe_is_the_profiles() -> None:
    settings = SETTINGS.model_copy(update={"averaging": 0.9, "patience": 3, "parts": 4})
    recipe = recipe_of(settings, 7)
    for name in (
        "batch",
        "learning_rate",
        "weight_decay",
        "label_smoothing",
        "class_weights",
        "augmentation",
        "seed",
        *NEW,
    ):
        assert getattr(recipe, name) == getattr(settings, name)
    assert recipe.epochs == 7


def test_files_of_weights_hold_tensors_and_no_code(
    tmp_path: Path, shape: Plan, data_of: Callable[..., Dataset]
) -> None:
    trained(tmp_path / "one", shape, data_of())
    tensors, meta = read_tensors(tmp_path / "one" / "network.safetensors")
    assert tensors.keys() == with_swapout(shape, SETTINGS.swapout).state_dict().keys()
    assert meta == {}
