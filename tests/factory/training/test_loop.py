import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from factory.data.dataset import Dataset, Part
from factory.profiles import Augmentation
from factory.swapout.layer import Swapout
from factory.swapout.network import Network
from factory.training import loop, steps
from factory.training.checkpoint import Progress, read_tensors
from factory.training.compute import Compute, this_machine
from factory.training.finish import reestimate
from factory.training.loop import evaluate, fit
from factory.training.metrics import balanced_accuracy, balanced_loss
from factory.training.pictures import predict, standard
from factory.training.recipe import Recipe, seed_of
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


KINDS: dict[str, tuple[Compute, dict[str, object]]] = {
    "float32": (EXACT, {}),
    "bfloat16": (HALF, {}),
    "averaged": (EXACT, {"averaging": 0.9, "patience": 3}),
    "without masks": (EXACT, {"sampled": False, "patience": 2}),
    "in parts": (EXACT, {"parts": 2, "averaging": 0.5}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_ends_with_the_same_weights(
    kind: str, fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    compute, changes = KINDS[kind]
    recipe_of = partial(recipe_of, **changes)
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
    reestimate(network, data.train, norm := standard(data.train.images), EXACT)
    logits = predict(network, data.val.images, norm, EXACT)
    best = min(history, key=lambda row: row["val_loss"] or 0)
    assert best["val_balanced_accuracy"] == balanced_accuracy(data.val.labels, logits.argmax(1)) > 0.9
    assert best["val_loss"] == pytest.approx(balanced_loss(data.val.labels, logits), rel=1e-3)
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
        generator = torch.Generator().manual_seed(seed_of("order", recipe.seed, epoch))
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
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "EVALUATIONS", 1)  # so that the last weights are the best there are
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
    with pytest.raises(DivergedError, match=r"in epoch 3, step 2: .*lower training\.learning_rate") as caught:
        trained(fresh(), data_of(), recipe_of(learning_rate=1e35), path)
    assert caught.value.exit_code == 1
    assert path.read_bytes() == kept


def test_weights_that_burst_in_the_very_last_step_stop_the_training_too(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    recipe = recipe_of(epochs=1, learning_rate=1e35)  # two steps: the first has the rate 0, the second no successor
    with pytest.raises(DivergedError, match="training diverged in epoch 1, step 2: the validation loss after it"):
        trained(fresh(), data_of(train=32), recipe, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_fewer_images_than_a_batch_are_one_step(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    history = trained(fresh(), data_of(train=10), recipe_of(batch=64, epochs=2), tmp_path / "c")
    assert len(history) == 2


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


def unlearnable(data: Dataset) -> Dataset:
    """On validation the labels are at random, so a network that grows sure of itself gets worse."""
    labels = np.random.default_rng(0).permutation(data.val.labels)
    return replace(data, val=replace(data.val, labels=labels))


def losses(history: History) -> list[float]:
    return [row["val_loss"] for row in history if row["val_loss"] is not None]


def test_patience_ends_a_training_that_no_longer_gets_better(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    data, wild = unlearnable(data_of()), recipe_of(epochs=20)
    whole = losses(trained(fresh(), data, wild, tmp_path / "whole"))
    assert len(whole) == 20
    for patience in (1, 2, 3):
        recipe = replace(wild, patience=patience)
        one, again = fresh(), fresh(seed=3)
        stopped = losses(trained(one, data, recipe, tmp_path / str(patience)))
        waits = [n for n in range(1, 20) if n - int(np.argmin(whole[: n + 1])) == patience]
        assert len(stopped) == waits[0] + 1 < 20
        assert stopped == whole[: len(stopped)]
        assert losses(trained(again, data, recipe, tmp_path / str(patience))) == stopped  # only read back
        assert same(one, again)


def test_the_network_left_is_that_of_the_best_evaluation(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    recipe, data, seen = recipe_of(epochs=16), unlearnable(data_of()), []
    network = fresh(swapout=False)

    def on_epoch(_: Progress) -> None:
        seen.append(copy.deepcopy(network.state_dict()))

    norm = standard(data.train.images)
    history = fit(network, data.train, data.val, norm, recipe, EXACT, tmp_path / "c", on_epoch)
    best = int(np.argmin(losses(history)))
    assert best < 15  # else the test shows nothing
    assert all(torch.equal(value, seen[best][name]) for name, value in network.state_dict().items())
    logits = predict(network, data.val.images, norm, EXACT)  # a plain network is evaluated as it is
    assert losses(history)[best] == balanced_loss(data.val.labels, logits)


def test_without_masks_a_training_is_that_of_the_expectation(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    quiet, drawn = fresh(), fresh()
    history = trained(quiet, data_of(), recipe_of(sampled=False, averaging=0.0), tmp_path / "1")
    assert trained(drawn, data_of(), recipe_of(), tmp_path / "2") != history

    class Expected(nn.Module):
        def __init__(self, join: Swapout) -> None:
            super().__init__()
            self.p1, self.p2 = join.p1, join.p2

        def forward(self, x: Tensor, f: Tensor) -> Tensor:
            return self.p1 * x + self.p2 * f if (self.p1, self.p2) != (1, 1) else x + f

    by_hand = fresh()
    for name, module in list(by_hand.named_modules()):
        if isinstance(module, Swapout):
            by_hand.set_submodule(name, Expected(module))
    assert trained(by_hand, data_of(), recipe_of(), tmp_path / "3") == history
    assert same(quiet, by_hand)


def test_an_evaluation_gathers_statistics_of_its_own_and_leaves_those_of_the_training(
    fresh: Fresh, data_of: DataOf
) -> None:
    network, data = fresh(), data_of()
    norm = standard(data.train.images)
    before = copy.deepcopy(network.state_dict())
    accuracy, loss = evaluate(network, data.train, data.val, norm, EXACT, regathered=True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert loss != evaluate(network, data.train, data.val, norm, EXACT, regathered=False)[1]
    reestimate(network, data.train, norm, EXACT)
    logits = predict(network, data.val.images, norm, EXACT)
    assert (accuracy, loss) == (
        balanced_accuracy(data.val.labels, logits.argmax(1)),
        balanced_loss(data.val.labels, logits),
    )


def test_the_average_is_what_is_evaluated_and_left(
    fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against weights recorded after every step of the same training without averaging."""
    monkeypatch.setattr(loop, "EVALUATIONS", 1)
    data, recipe, weights = data_of(), recipe_of(averaging=0.8), []
    averaged, plain = fresh(), fresh()
    original = steps.Trainer.step

    def recording(self: steps.Trainer, step: steps.Step) -> Tensor:
        loss = original(self, step)
        weights.append({name: t.double().clone() for name, t in self.network.state_dict().items()})
        return loss

    monkeypatch.setattr(steps.Trainer, "step", recording)
    trained(plain, data, recipe_of(), tmp_path / "plain")
    monkeypatch.undo()
    monkeypatch.setattr(loop, "EVALUATIONS", 1)
    wanted = {name: value.double() for name, value in fresh().state_dict().items()}
    for t, now in enumerate(weights):
        decay = min(0.8, (1 + t) / (10 + t))
        wanted = {name: decay * value + (1 - decay) * now[name] for name, value in wanted.items()}
    history = trained(averaged, data, recipe, tmp_path / "averaged")
    assert len(weights) == 12
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), wanted[name], rtol=1e-4, atol=1e-6)
            assert not torch.equal(value, plain.state_dict()[name])
    norm = standard(data.train.images)
    assert history[-1]["val_loss"] == evaluate(averaged, data.train, data.val, norm, EXACT, regathered=True)[1]


def test_the_pace_is_told_and_not_kept(fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf, tmp_path: Path) -> None:
    data, told = data_of(), []
    fit(fresh(), data.train, data.val, standard(data.train.images), recipe_of(), EXACT, tmp_path / "c", told.append)
    assert len(told) == 4 and all(progress.images_per_s > 0 for progress in told)
    assert read_tensors(tmp_path / "c")[1].keys() == {"epoch", "history"}
