import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from factory.data.dataset import Dataset, Part
from factory.profiles import Augmentation
from factory.swapout.layer import Swapout
from factory.swapout.network import Network
from factory.training import loop
from factory.training.checkpoint import Progress, read_tensors
from factory.training.compute import Compute, this_machine
from factory.training.loop import fit
from factory.training.metrics import balanced_accuracy, balanced_loss
from factory.training.pictures import Standard, predict, standard, to_device
from factory.training.recipe import Recipe, learning_rate
from factory.training.steps import DivergedError

Fresh = Callable[..., Network]
RecipeOf = Callable[..., Recipe]
DataOf = Callable[..., Dataset]
EXACT = Compute("cpu", "float32", 1)
HALF = Compute("cpu", "bfloat16", 1)
STILL = Augmentation(shift=0, brightness=0, contrast=0, noise=0)
History = list[dict[str, float | None]]


class Interrupted(Exception):  # noqa: N818
    pass


def trained(
    network: nn.Module, data: Dataset, recipe: Recipe, path: Path, compute: Compute = EXACT, stop: int | None = None
) -> History:
    """Train; with `stop`, until that many epochs are done."""

    def on_epoch(progress: Progress) -> None:
        assert len(progress.history) == progress.epoch
        if progress.epoch == stop:
            raise Interrupted

    norm = standard(data.train.images)
    return fit(network, data.train, data.val, norm, recipe, compute, path, on_epoch)


def same(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_a_training_is_a_function_of_its_arguments(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    one, two, other = fresh(), fresh(), fresh()
    history = trained(one, data_of(), recipe_of(), tmp_path / "1")
    torch.manual_seed(77)
    np.random.default_rng(77)
    assert trained(two, data_of(), recipe_of(), tmp_path / "2") == history
    assert same(one, two)
    assert trained(other, data_of(), recipe_of(seed=1), tmp_path / "3") != history
    assert not same(one, other)


@pytest.mark.parametrize("compute", [EXACT, HALF], ids=lambda compute: compute.dtype)
def test_an_interrupted_training_ends_with_the_same_weights(
    compute: Compute, fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    whole = fresh()
    history = trained(whole, data_of(), recipe_of(), tmp_path / "whole", compute)
    for stop in (1, 3):
        with pytest.raises(Interrupted):
            trained(fresh(seed=9), data_of(), recipe_of(), tmp_path / f"stopped at {stop}", compute, stop)
    for stop in (1, 3):
        with pytest.raises(Interrupted):
            trained(fresh(), data_of(), recipe_of(), tmp_path / "stopped", compute, stop)
    resumed = fresh(seed=5)  # whatever the weights were: the checkpoint has them all
    assert trained(resumed, data_of(), recipe_of(), tmp_path / "stopped", compute) == history
    assert same(resumed, whole)


def test_a_training_resumes_from_its_last_checkpoint_where_not_every_epoch_is_kept(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINTS", 2)
    monkeypatch.setattr(loop, "EVALUATIONS", 2)
    recipe = recipe_of(epochs=6)
    whole, resumed = fresh(), fresh()
    history = trained(whole, data_of(), recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        trained(fresh(), data_of(), recipe, tmp_path / "stopped", stop=5)
    assert read_tensors(tmp_path / "stopped")[1]["epoch"] == 3
    assert trained(resumed, data_of(), recipe, tmp_path / "stopped") == history
    assert same(resumed, whole)
    evaluated = [row["val_loss"] is not None for row in history]
    assert evaluated == [False, False, True, False, False, True]
    assert [row["val_balanced_accuracy"] is not None for row in history] == evaluated


def test_a_finished_training_is_only_read_back(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    one, again = fresh(), fresh(seed=1)
    history = trained(one, data_of(), recipe_of(), tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    assert trained(again, data_of(), recipe_of(), tmp_path / "c") == history
    assert same(one, again)
    assert (tmp_path / "c").read_bytes() == before


def test_the_network_learns_and_the_history_tells_it(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    network, data = fresh(), data_of(train=96)
    history = trained(network, data, recipe_of(epochs=16), tmp_path / "c")
    assert len(history) == 16
    losses = [row["loss"] for row in history if row["loss"] is not None]
    assert losses[-1] < 0.8 * losses[0]
    logits = predict(network, data.val.images, standard(data.train.images), EXACT)
    assert history[-1]["val_balanced_accuracy"] == balanced_accuracy(data.val.labels, logits.argmax(1)) > 0.9
    assert history[-1]["val_loss"] == pytest.approx(balanced_loss(data.val.labels, logits))
    assert all(m.generator is None for m in network.modules() if isinstance(m, Swapout))


def by_hand(network: Network, train: Part, recipe: Recipe) -> None:
    """The same training from its description: plain loops, losses from logarithms, Nesterov from its formulas."""
    mean, std = (train.images / 255).mean(), (train.images / 255).std()
    pixels = torch.from_numpy((train.images.transpose(0, 3, 1, 2) / 255 - mean) / std).float()
    labels, classes = torch.from_numpy(train.labels), int(train.labels.max()) + 1
    weight = torch.tensor([len(labels) / (classes * int((labels == k).sum())) for k in range(classes)])
    velocity = {p: torch.zeros_like(p) for p in network.parameters()}
    steps = len(labels) // recipe.batch
    network.train()
    for epoch in range(recipe.epochs):
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
        order = torch.randperm(len(labels), generator=generator)
        for step in range(steps):
            rows = order[step * recipe.batch : (step + 1) * recipe.batch]
            log_p = network(pixels[rows]).log_softmax(1)
            truth = labels[rows]
            own = -(weight[truth] * log_p[torch.arange(len(rows)), truth]).sum() / weight[truth].sum()
            spread = -(weight * log_p).sum() / weight[truth].sum() / classes
            loss = (1 - recipe.label_smoothing) * own + recipe.label_smoothing * spread
            network.zero_grad()
            loss.backward()
            done = (epoch * steps + step) / (recipe.epochs * steps)
            factor = done / 0.1 if done < 0.1 else (1 + math.cos(math.pi * (done - 0.1) / 0.9)) / 2
            rate = recipe.learning_rate * recipe.batch / 64 * factor
            with torch.no_grad():
                for p, v in velocity.items():
                    assert p.grad is not None
                    gradient = p.grad + (recipe.weight_decay * p if p.ndim > 1 else 0)
                    v.mul_(0.9).add_(gradient)
                    p.sub_(rate * (gradient + 0.9 * v))


def test_the_weights_are_those_of_the_recipe_followed_by_hand(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    data = data_of(train=54)
    uneven = np.flatnonzero((data.train.labels == 0) | (np.arange(54) < 24))
    train = Part(data.train.images[uneven], data.train.labels[uneven], (), ())
    recipe = recipe_of(epochs=3, batch=8, augmentation=STILL, weight_decay=0.01, learning_rate=0.05)
    one, two = fresh(swapout=False), fresh(swapout=False)
    trained(one, Dataset(data.labels, 0, train, data.val, data.test), recipe, tmp_path / "c")
    by_hand(two, train, recipe)
    start = fresh(swapout=False).state_dict()
    for name, value in two.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], value, rtol=1e-4, atol=2e-5)
        if value.ndim > 1:
            assert (value - start[name]).abs().max() > 1e-3


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_checkpoint(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    path = tmp_path / "c"
    with pytest.raises(Interrupted):
        trained(fresh(), data_of(), recipe_of(), path, stop=2)
    kept = path.read_bytes()
    with pytest.raises(DivergedError, match=r"training diverged in epoch 3: .*lower training\.learning_rate") as caught:
        trained(fresh(), data_of(), recipe_of(learning_rate=1e35), path)
    assert caught.value.exit_code == 1
    assert path.read_bytes() == kept


def test_weights_that_burst_in_the_very_last_step_stop_the_training_too(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    recipe = recipe_of(epochs=1, learning_rate=1e35)  # two steps: the first has the rate 0, the second no successor
    with pytest.raises(DivergedError, match="training diverged in epoch 1"):
        trained(fresh(), data_of(train=32), recipe, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_fewer_images_than_a_batch_are_one_step(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    history = trained(fresh(), data_of(train=10), recipe_of(batch=64, epochs=2), tmp_path / "c")
    assert len(history) == 2


def test_the_rate_warms_up_and_falls_by_half_a_cosine() -> None:
    assert learning_rate(0) == 0
    assert learning_rate(0.05) == pytest.approx(0.5)
    assert learning_rate(0.1) == 1
    assert learning_rate(0.55) == pytest.approx(0.5)
    assert learning_rate(0.1 + 0.9 / 3) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)
    assert 0 < learning_rate(0.999) < 1e-5
    falling = [learning_rate(p) for p in np.linspace(0.1, 0.999, 50)]
    assert falling == sorted(falling, reverse=True)


def test_the_standard_is_mean_and_spread_of_each_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 5, 7, 3), np.uint8)
    images[..., 2] = 40
    found, pixels = standard(images), images / 255
    assert found.mean == pytest.approx([pixels[..., c].mean() for c in range(3)])
    assert found.std[:2] == pytest.approx([pixels[..., c].std() for c in range(2)])
    assert found.std[2] == 1e-3  # a channel that never changes is not divided by zero
    normal = found.apply(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(3, dtype=normal.dtype), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal[:, :2].std((0, 2, 3), correction=0), torch.ones(2, dtype=normal.dtype))


def test_pictures_go_to_torch_without_a_copy_of_their_order() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 7, 3), np.uint8)
    x = to_device(images, "cpu")
    assert x.shape == (4, 3, 5, 7) and x.dtype == torch.uint8
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert all(x[n, c, h, w] == images[n, h, w, c] for n, c, h, w in ((0, 0, 0, 0), (3, 2, 4, 6), (1, 2, 3, 4)))


def test_predictions_are_of_the_expectation_in_the_order_of_the_images(fresh: Fresh, data_of: DataOf) -> None:
    network, data = fresh().train(), data_of(test=300)
    norm = Standard((0.3,), (0.2,))
    found = predict(network, data.test.images, norm, EXACT)
    assert found.shape == (300, 2) and found.dtype == np.float32
    x: Tensor = (torch.from_numpy(data.test.images).permute(0, 3, 1, 2) / 255 - 0.3) / 0.2
    with torch.no_grad():
        wanted = torch.cat([network(row[None]) for row in x[::37]])
    np.testing.assert_allclose(found[::37], wanted, rtol=1e-4, atol=1e-5)


def test_what_a_training_runs_on_is_part_of_its_inputs() -> None:
    compute = this_machine()
    assert compute.device in ("cpu", "cuda") and compute.dtype in ("float32", "bfloat16")
    assert compute.as_json() == {
        "device": compute.device,
        "dtype": compute.dtype,
        "threads": compute.threads,
        "torch": torch.__version__,
    }
    with HALF.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with EXACT.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
