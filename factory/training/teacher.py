"""Teachers of every kind give one thing: logits for the training images, row by row, from which a student learns.

A fine-tuned pretrained network, a program of the user's, the samples of a Swapout network and several networks
together are each an `Expert`; `answers` asks it once, and `choose` settles by validation how far it is followed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from factory.profiles import Augmentation
from factory.swapout.layer import sample_with
from factory.training.compute import Compute
from factory.training.pictures import Standard, to_device
from factory.workspace import write_array

Expert = Callable[[Tensor], Tensor]  # pictures float32 (N, C, H, W) in [0, 1] to logits float32 (N, K)
View = Callable[[Tensor], Tensor]  # pictures (N, C, H, W) to pictures

BATCH: Final = 64
TEMPERATURES: Final = (2.0, 4.0)
WEIGHTS: Final = (0.5, 0.9)
PATIENCE: Final = 3  # times the epochs of a student alone: one that is taught goes on learning (Beyer et al. 2022)


def of_network(network: nn.Module, norm: Standard, compute: Compute) -> Expert:
    """A trained network in evaluation mode, a Swapout network in expectation."""
    network.to(compute.device).eval()

    def logits(x: Tensor) -> Tensor:
        with compute.autocast():
            return network(norm.apply(x)).float()  # type: ignore[no-any-return]

    return logits


def together(experts: Sequence[Expert]) -> Expert:
    """The logarithm of the mean of the experts' probabilities."""

    def logits(x: Tensor) -> Tensor:
        each = torch.stack([expert(x).log_softmax(1) for expert in experts])
        return each.logsumexp(0) - math.log(len(experts))

    return logits


def sampled(network: nn.Module, norm: Standard, compute: Compute, passes: int, seed: int) -> Expert:
    """The ensemble that a Swapout network is (Singh, Hoiem, Forsyth, NIPS 2016, section 3.2): the mean of samples.

    Batch-norm keeps the statistics of the training, which were gathered under samples too. The masks are the same at
    every call, so that the answers depend on the pictures and the seed alone.
    """
    expert = of_network(network, norm, compute)

    def logits(x: Tensor) -> Tensor:
        sample_with(network, torch.Generator(compute.device).manual_seed(seed))
        try:
            return together([expert] * passes)(x)
        finally:
            sample_with(network, None)

    return logits


def _then(first: View, second: View) -> View:
    return lambda x: second(first(x))


def symmetries(augmentation: Augmentation, square: bool) -> list[View]:
    """Every flip and turn that the augmentation declares true, the identity first: 1, 2, 4 or 8 views."""
    views: list[View] = [lambda x: x]

    def also(move: View) -> None:
        views.extend([_then(view, move) for view in views])

    flips = augmentation.flip_horizontal, augmentation.flip_vertical
    if flips[0]:
        also(lambda x: x.flip(3))
    if flips[1]:
        also(lambda x: x.flip(2))
    if augmentation.quarter_turns:
        if not all(flips):  # both flips are a half turn already
            also(lambda x: x.flip(2, 3))
        if square:
            also(lambda x: x.rot90(1, (2, 3)))
    return views


@torch.inference_mode()
def answers(
    expert: Expert, images: NDArray[np.uint8], augmentation: Augmentation, compute: Compute
) -> NDArray[np.float32]:
    """Logits (N, K) of uint8 images (N, H, W, C): the mean, in probability, over the views that leave the label true.

    The images may have any size; a row of the answers belongs to the same row of the student's images.
    """
    torch.set_num_threads(compute.threads)
    views = symmetries(augmentation, square=images.shape[1] == images.shape[2])
    ask = together([_then(view, expert) for view in views])
    pixels = to_device(images, compute.device)
    batches = torch.tensor_split(pixels, max(1, math.ceil(len(pixels) / BATCH)))
    return torch.cat([ask(x.float() / 255).cpu() for x in batches]).numpy()


def answer(
    expert: Expert,
    images: Mapping[str, NDArray[np.uint8]],
    augmentation: Augmentation,
    compute: Compute,
    folder: Path,
) -> None:
    """Write the answers on each named set of images as `<name>.npy`, float32 (N, K), into `folder`."""
    for name, own in images.items():
        write_array(folder / f"{name}.npy", answers(expert, own, augmentation, compute))


def load_answers(folder: Path, name: str) -> NDArray[np.float32]:
    """Read what `answer` wrote."""
    found: NDArray[np.float32] = np.load(folder / f"{name}.npy", allow_pickle=False)
    return found


@dataclass(frozen=True, slots=True)
class Tried:
    """One way of teaching and the validation loss of the student it made."""

    temperature: float
    weight: float
    val_loss: float


def choose(
    train: Callable[[float, float], float],
    temperatures: Sequence[float] = TEMPERATURES,
    weights: Sequence[float] = WEIGHTS,
) -> tuple[Tried, list[Tried]]:
    """Train a student for every temperature and weight; return the best and all, in the order tried.

    Args:
        train: a training, by temperature and weight, that returns its loss on validation.
        temperatures: to try, each with every weight.
        weights: of the teacher's answers against the labels, in (0, 1].
    """
    grid = [(temperature, weight) for temperature in temperatures for weight in weights]
    tried = [Tried(temperature, weight, train(temperature, weight)) for temperature, weight in grid]
    return min(tried, key=lambda each: each.val_loss), tried
