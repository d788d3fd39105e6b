import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from export.runtime.errors import EnvironmentLacks, UsageError
from factory.data.dataset import Dataset
from factory.swapout.layer import sample_with
from factory.swapout.network import Network
from factory.training import loop
from factory.training.checkpoint import History, Progress, read_tensors
from factory.training.compute import Compute
from factory.training.loop import fit
from factory.training.pictures import standard
from factory.training.recipe import Recipe, seed_of
from factory.training.steps import DivergedError, Step, Trainer

Fresh = Callable[..., Network]
RecipeOf = Callable[..., Recipe]
DataOf = Callable[..., Dataset]
EXACT = Compute("cpu", "float32", 1)


class Narrow(nn.Module):
    """Has no memory for more than `most` images, after a batch-norm has already taken them in."""

    def __init__(self, network: nn.Module, most: int, after: int = 0) -> None:
        super().__init__()
        self.norm, self.network, self.most, self.after, self.seen = nn.BatchNorm2d(1), network, most, after, 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        learning = torch.is_grad_enabled()
        self.seen += learning
        if learning and len(x) > self.most and self.seen > self.after:
            raise torch.OutOfMemoryError
        logits: Tensor = self.network(x)
        return logits


def trained(network: nn.Module, data: Dataset, recipe: Recipe, path: Path, stop: int | None = None) -> History:
    def on_epoch(progress: Progress) -> None:
        if progress.epoch == stop:
            raise KeyboardInterrupt

    return fit(network, data.train, data.val, standard(data.train.images), recipe, EXACT, path, on_epoch)


def same(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("parts", [2, 3])
def test_a_step_in_parts_is_the_mean_of_what_each_part_makes_of_the_network_before_it(
    parts: int, fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf
) -> None:
    """Each micro-batch by itself, from a copy, with its own stream; the mean by hand in float64."""
    data, recipe = data_of(), recipe_of(parts=parts, weight_decay=0.0)
    norm = standard(data.train.images)
    trainer = Trainer(fresh(), data.train, norm, recipe, EXACT, None)
    sample_with(trainer.network, trainer.generator)
    trainer.network.train()
    before, rows = copy.deepcopy(trainer.network.state_dict()), torch.randperm(48)[:16]
    for group in trainer.optimiser.param_groups:
        group["lr"] = 1.0
    loss = trainer.step(Step(2, 5, rows))

    shares = [len(own) / 16 for own in rows.tensor_split(parts)]
    total, gradients, statistics = 0.0, {}, {}
    for part, own in enumerate(rows.tensor_split(parts)):
        alone, stream = fresh(), torch.Generator().manual_seed(seed_of("part", 0, 2, 5, part))
        sample_with(alone.train().to(memory_format=torch.channels_last), stream)  # masks lie as the activations do
        x, truth, _ = trainer.feed.serve(own, 2, stream)
        value = nn.functional.cross_entropy(alone(x), truth, trainer.weights, label_smoothing=recipe.label_smoothing)
        value.backward()
        total += shares[part] * value.item()
        for name, p in alone.named_parameters():
            assert p.grad is not None
            gradients[name] = gradients.get(name, 0) + shares[part] * p.grad.double()
        for name, buffer in alone.named_buffers():
            statistics[name] = statistics.get(name, 0) + buffer.double() / parts
    assert float(loss) == pytest.approx(total, rel=1e-5)
    after = trainer.network.state_dict()
    for name, gradient in gradients.items():  # the first step of Nesterov with the rate 1 goes 1.9 gradients
        torch.testing.assert_close((before[name] - after[name]).double(), 1.9 * gradient, rtol=1e-3, atol=1e-5)
    for name, buffer in statistics.items():
        torch.testing.assert_close(after[name].double(), buffer, rtol=1e-5, atol=1e-7)


def test_the_number_of_parts_is_a_part_of_the_result(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    one, two, again = fresh(), fresh(), fresh()
    trained(one, data_of(), recipe_of(epochs=2), tmp_path / "1")
    history = trained(two, data_of(), recipe_of(epochs=2, parts=2), tmp_path / "2")
    trained(again, data_of(), recipe_of(epochs=2, parts=2), tmp_path / "3")
    assert [row["parts"] for row in history] == [2, 2]
    assert same(two, again) and not same(one, two)


def test_more_parts_than_pairs_of_images_are_refused(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"at least 2 images.*found 1\. lower training\.parts"):
        trained(fresh(), data_of(train=10), recipe_of(batch=16, parts=8), tmp_path / "c")


def test_where_memory_is_short_the_step_is_repeated_in_parts_as_if_it_had_always_been(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, ample = Narrow(fresh(), 5), Narrow(fresh(), 16)
    history = trained(short, data_of(), recipe_of(), tmp_path / "1")
    told = capsys.readouterr().err.strip().splitlines()
    assert told == [
        "memory was short in epoch 1, step 1: from here on a batch goes through in 4 parts of about 4 images"
    ]
    assert trained(ample, data_of(), recipe_of(parts=4), tmp_path / "2") == history
    assert same(short, ample)
    assert capsys.readouterr().err == ""


def test_a_training_that_was_short_of_memory_goes_on_with_its_parts(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    whole = Narrow(fresh(), 8, after=4)  # the second step of the second epoch is the first to fail
    history = trained(whole, data_of(), recipe_of(), tmp_path / "whole")
    assert [row["parts"] for row in history] == [1, 2, 2, 2]
    with pytest.raises(KeyboardInterrupt):
        trained(Narrow(fresh(), 8, after=4), data_of(), recipe_of(), tmp_path / "c", stop=2)
    resumed = Narrow(fresh(seed=2), 16)
    assert trained(resumed, data_of(), recipe_of(), tmp_path / "c") == history
    assert same(resumed, whole)


def test_memory_for_less_than_two_images_is_a_clear_error(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    with pytest.raises(EnvironmentLacks, match=r"memory does not suffice .*epoch 1, step 1.*2 images at a time"):
        trained(Narrow(fresh(), 1), data_of(), recipe_of(), tmp_path / "c")
    assert not (tmp_path / "c").exists()


class Bursting(nn.Module):
    """Its answers are no numbers in one forward pass of the training."""

    def __init__(self, network: nn.Module, at: int) -> None:
        super().__init__()
        self.network, self.at, self.seen = network, at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        logits: Tensor = self.network(x)
        return logits * float("nan") if self.training and self.seen == self.at else logits


def test_the_first_step_whose_loss_is_no_number_is_named_and_the_last_good_checkpoint_kept(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    network = Bursting(fresh(swapout=False), at=8)  # three steps an epoch
    with pytest.raises(DivergedError, match="diverged in epoch 3, step 2: the loss is no number"):
        trained(network, data_of(), recipe_of(), tmp_path / "c")
    tensors, meta = read_tensors(tmp_path / "c")
    assert meta["epoch"] == 2
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_a_checkpoint_is_never_written_from_weights_that_are_no_numbers(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "EVALUATIONS", 1)  # nothing but the weights themselves can tell

    class Poisoned(torch.optim.SGD):
        def step(self) -> None:  # type: ignore[override]
            super().step()
            self.count = getattr(self, "count", 0) + 1
            if self.count == 6:
                self.param_groups[0]["params"][0].data[0] = float("nan")

    monkeypatch.setattr(torch.optim, "SGD", Poisoned)
    with pytest.raises(DivergedError, match="epoch 2, step 3: the weights after it are no number"):
        trained(fresh(), data_of(), recipe_of(), tmp_path / "c")
    assert read_tensors(tmp_path / "c")[1]["epoch"] == 1
