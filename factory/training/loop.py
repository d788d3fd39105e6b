"""The training loop: SGD with Nesterov momentum, label smoothing, cosine with warm-up, read from top to bottom."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from export.runtime.errors import FactoryError
from factory.data.dataset import Part
from factory.profiles import Augmentation
from factory.swapout.layer import sample_with
from factory.training.augment import augment
from factory.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from factory.training.compute import Compute
from factory.training.metrics import balanced_accuracy, balanced_loss

WARM_UP = 0.1  # share of all steps
EVALUATIONS = 20  # validations over a whole training
CHECKPOINTS = 50


class DivergedError(FactoryError):
    """The loss stopped being a number."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how to train. `learning_rate` is for a batch of 64 and grows with the batch."""

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    class_weights: bool
    augmentation: Augmentation
    seed: int


@dataclass(frozen=True, slots=True)
class Standard:
    """Mean and standard deviation of the training images, a value a channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, x: Tensor) -> Tensor:
        """Normalise float images (N, C, H, W) in [0, 1]."""
        mean, std = (torch.tensor(v, device=x.device)[None, :, None, None] for v in (self.mean, self.std))
        return (x - mean) / std


def standard(images: NDArray[np.uint8]) -> Standard:
    """Measure the mean and standard deviation of uint8 images (N, H, W, C)."""
    pixels = images.reshape(-1, images.shape[-1])
    mean = pixels.mean(0, dtype=np.float64) / 255
    std = np.maximum(pixels.std(0, dtype=np.float64) / 255, 1e-3)
    return Standard(tuple(float(v) for v in mean), tuple(float(v) for v in std))


def to_device(images: NDArray[np.uint8], device: str) -> Tensor:
    """uint8 (N, H, W, C) to a uint8 tensor (N, C, H, W) in channels-last layout on the device."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)


@torch.inference_mode()
def predict(network: nn.Module, images: NDArray[np.uint8], norm: Standard, compute: Compute) -> NDArray[np.float32]:
    """Logits (N, classes) of the network in evaluation mode."""
    network.eval()
    pixels = to_device(images, compute.device)
    with compute.autocast():
        parts = [network(norm.apply(x.float() / 255)).float().cpu() for x in torch.split(pixels, 256)]
    return torch.cat(parts).numpy()


def learning_rate(progress: float) -> float:
    """Factor of the peak rate at `progress` in [0, 1): linear warm-up, then a half cosine to zero."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def _optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]  # batch-norm and biases are not decayed
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)


def _class_weights(labels: NDArray[np.int64], classes: int) -> Tensor:
    counts = np.bincount(labels, minlength=classes)
    return torch.tensor(len(labels) / (classes * np.maximum(counts, 1)), dtype=torch.float32)


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise DivergedError(
            f"training diverged in epoch {epoch + 1}: the loss is no number",
            fix="lower training.learning_rate; the last good checkpoint is kept",
        )
    return loss


class _Trainer:
    def __init__(self, network: nn.Module, train: Part, norm: Standard, recipe: Recipe, compute: Compute) -> None:
        self.network = network.to(compute.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe, self.norm, self.compute = recipe, norm, compute
        self.pixels = to_device(train.images, compute.device)
        self.labels = torch.from_numpy(train.labels).to(compute.device)
        classes = int(train.labels.max()) + 1
        weights = _class_weights(train.labels, classes) if recipe.class_weights else torch.ones(classes)
        self.weights = weights.to(compute.device)
        self.optimiser = _optimiser(self.network, recipe)
        self.peak = recipe.learning_rate * recipe.batch / 64
        self.steps = max(1, len(self.labels) // recipe.batch)

    def epoch(self, epoch: int) -> float:
        """One pass over the training images; all its randomness comes from (seed, epoch). Returns the mean loss."""
        generator = torch.Generator(self.compute.device).manual_seed(self.recipe.seed * 1_000_003 + epoch)
        sample_with(self.network, generator)
        self.network.train()
        order = torch.randperm(len(self.labels), generator=generator, device=self.compute.device)
        total = torch.zeros((), device=self.compute.device)
        for step, rows in enumerate(order[: self.steps * self.recipe.batch].chunk(self.steps)):
            progress = (epoch * self.steps + step) / (self.recipe.epochs * self.steps)
            for group in self.optimiser.param_groups:
                group["lr"] = self.peak * learning_rate(progress)
            total += self.step(rows, generator)
        return _finite(float(total) / self.steps, epoch)

    def step(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        x = self.pixels[rows].float() / 255
        x = self.norm.apply(augment(x, self.recipe.augmentation, generator))
        with self.compute.autocast():
            logits = self.network(x.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(
            logits.float(), self.labels[rows], self.weights, label_smoothing=self.recipe.label_smoothing
        )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss.detach()


def fit(
    network: nn.Module,
    train: Part,
    val: Part,
    norm: Standard,
    recipe: Recipe,
    compute: Compute,
    checkpoint: Path,
    on_epoch: Callable[[Progress], None],
) -> list[dict[str, float | None]]:
    """Train `network` in place and return the history, a row an epoch: loss, val_balanced_accuracy, val_loss.

    A function of its arguments (Swapout layers sample in training, and compute their expectation on validation).
    Where `checkpoint` exists the training goes on from it, and ends as it would have without the interruption.

    Raises:
        DivergedError: if the loss is not finite.
    """
    torch.set_num_threads(compute.threads)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    trainer = _Trainer(network, train, norm, recipe, compute)
    progress = Progress(0, [])
    if checkpoint.exists():
        progress = load_checkpoint(checkpoint, network, trainer.optimiser)
        on_epoch(progress)
    evaluate_every = max(1, recipe.epochs // EVALUATIONS)
    save_every = max(1, recipe.epochs // CHECKPOINTS)
    for epoch in range(progress.epoch, recipe.epochs):
        row: dict[str, float | None] = {
            "loss": trainer.epoch(epoch),
            "val_balanced_accuracy": None,
            "val_loss": None,
        }
        done = epoch + 1
        if done % evaluate_every == 0 or done == recipe.epochs:
            sample_with(network, None)
            logits = predict(network, val.images, norm, compute)
            row["val_balanced_accuracy"] = balanced_accuracy(val.labels, logits.argmax(1))
            row["val_loss"] = _finite(balanced_loss(val.labels, logits), epoch)
        progress = Progress(done, [*progress.history, row])
        if done % save_every == 0 or done == recipe.epochs:
            save_checkpoint(checkpoint, network, trainer.optimiser, progress)
        on_epoch(progress)
    sample_with(network, None)
    return progress.history
