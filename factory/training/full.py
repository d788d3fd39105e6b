"""The full training of one network, with Swapout."""

from collections.abc import Callable
from pathlib import Path

import torch

from export.runtime.errors import UsageError
from factory.data.dataset import Dataset
from factory.profiles import SwapoutSettings, TrainingSettings
from factory.spaces.network import build
from factory.spaces.plan import Plan
from factory.swapout.network import Network
from factory.training.checkpoint import Progress, read_tensors, save_weights
from factory.training.compute import Compute
from factory.training.loop import fit
from factory.training.pictures import Standard
from factory.training.recipe import Recipe
from factory.training.teaching import Teaching
from factory.workspace import write_json

WEIGHTS = "network.safetensors"
CHECKPOINT = "checkpoint.safetensors"


def recipe_of(settings: TrainingSettings, epochs: int) -> Recipe:
    """The recipe of a line's profile for a training of `epochs`."""
    return Recipe(
        epochs,
        settings.batch,
        settings.learning_rate,
        settings.weight_decay,
        settings.label_smoothing,
        settings.class_weights,
        settings.augmentation,
        settings.seed,
        averaging=settings.averaging,
        patience=settings.patience,
        parts=settings.parts,
    )


def with_swapout(plan: Plan, settings: SwapoutSettings) -> Network:
    """Build the network with the noise of the line's profile.

    Raises:
        UsageError: if a list of probabilities does not have one for each stage or residual block of this network.
    """
    try:
        return build(plan, settings.noise)
    except ValueError as error:
        raise UsageError(f"training.swapout: {error}", fix="a constant or linear schedule fits any network") from None


def train(
    plan: Plan,
    settings: TrainingSettings,
    data: Dataset,
    norm: Standard,
    compute: Compute,
    folder: Path,
    on_epoch: Callable[[Progress], None],
    teaching: Teaching | None = None,
) -> None:
    """Train in `folder`, going on from its checkpoint; leave network.safetensors and history.json."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = with_swapout(plan, settings.swapout)
    recipe = recipe_of(settings, settings.epochs)
    history = fit(network, data.train, data.val, norm, recipe, compute, folder / CHECKPOINT, on_epoch, teaching)
    save_weights(folder / WEIGHTS, network.cpu(), {})
    write_json(folder / "history.json", history)
    (folder / CHECKPOINT).unlink()


def load_trained(plan: Plan, settings: SwapoutSettings, folder: Path) -> Network:
    """Rebuild what `train` left."""
    network = with_swapout(plan, settings)
    network.load_state_dict(read_tensors(folder / WEIGHTS)[0])
    return network
