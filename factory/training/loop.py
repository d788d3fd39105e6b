"""The training loop, read from top to bottom: an epoch, an evaluation, the best weights so far, a checkpoint."""

import copy
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from factory.data.dataset import Part
from factory.swapout.layer import probabilities, sample_with
from factory.training import ranks
from factory.training.checkpoint import History, Progress, State, read_tensors, restore, save_checkpoint
from factory.training.compute import Compute
from factory.training.metrics import balanced_accuracy, balanced_loss
from factory.training.pictures import Standard, predict
from factory.training.recipe import Recipe
from factory.training.statistics import regather
from factory.training.steps import Trainer, diverged
from factory.training.teaching import Teaching

EVALUATIONS = 20  # validations over a whole training
CHECKPOINTS = 50
STATISTICS = 1024  # training images that batch-norm statistics are gathered over for a validation


def fit(
    network: nn.Module,
    train: Part,
    val: Part,
    norm: Standard,
    recipe: Recipe,
    compute: Compute,
    checkpoint: Path,
    on_epoch: Callable[[Progress], None],
    teaching: Teaching | None = None,
) -> History:
    """Train `network` in place and return the history, a row an epoch.

    A row has the keys loss, val_balanced_accuracy, val_loss (None where the epoch was not evaluated) and parts, the
    micro-batches of a batch at the end of the epoch, which become more where memory does not suffice.

    A function of its arguments. Where `checkpoint` exists the training goes on from it, and ends as it would have
    without the interruption. Of several processes (`ranks.joined`) the leader calls it and all train.

    What is evaluated is the network in expectation mode, or its running average. Where masks were drawn or weights
    averaged, batch-norm statistics of the training do not fit it: it is evaluated as a copy, with statistics of its
    own gathered over up to 1,024 training images. The network is left with the weights of the evaluation with the
    lowest val_loss, and with the *training's* running statistics of that moment, which are for the caller to gather
    anew over all images (`factory.training.finish.reestimate`).

    Raises:
        DivergedError: if the loss or the weights are not finite, naming the epoch and the step.
        UsageError: if a batch cannot be split into recipe.parts, or these cannot be shared among the processes.
        EnvironmentLacks: if the device's memory does not even take two images at a time.
    """
    job = partial(_fit, network, train, val, norm, recipe, compute, checkpoint, teaching)
    ranks.invite(partial(job, _silent))
    return job(on_epoch)


def _silent(progress: Progress) -> None:
    """The leader reports."""


def _fit(
    network: nn.Module,
    train: Part,
    val: Part,
    norm: Standard,
    recipe: Recipe,
    compute: Compute,
    checkpoint: Path,
    teaching: Teaching | None,
    on_epoch: Callable[[Progress], None],
) -> History:
    torch.set_num_threads(compute.threads)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    trainer = Trainer(network, train, norm, recipe, compute, teaching)
    state = State(network, trainer.average.network if trainer.average else None, trainer.optimiser)
    subject = network if state.averaged is None else state.averaged
    noisy = recipe.sampled and any(keep != (1, 1) for keep in probabilities(network))
    judge = partial(evaluate, subject, train, val, norm, compute, regathered=noisy or state.averaged is not None)
    evaluate_every = max(1, recipe.epochs // EVALUATIONS)
    save_every = max(1, recipe.epochs // CHECKPOINTS)
    history: History = []
    if found := ranks.told(lambda: read_tensors(checkpoint) if checkpoint.exists() else None):
        history = restore(state, *found)
        trainer.parts = int(history[-1]["parts"] or recipe.parts)
        on_epoch(Progress(len(history), history))
    while len(history) < recipe.epochs and not exhausted(history, recipe.patience):
        epoch, start = len(history), time.perf_counter()
        loss = trainer.epoch(epoch)
        pace = trainer.feed.images / (time.perf_counter() - start)
        row: dict[str, float | None] = {
            "loss": loss,
            "val_balanced_accuracy": None,
            "val_loss": None,
            "parts": trainer.parts,
        }
        done = epoch + 1
        if done % evaluate_every == 0 or done == recipe.epochs:
            accuracy, val_loss = ranks.told(judge)
            if not math.isfinite(val_loss):
                raise diverged(epoch, trainer.feed.steps - 1, "the validation loss after it is")
            if all(val_loss < earlier for earlier in evaluations(history)):
                state.best = {name: tensor.clone() for name, tensor in subject.state_dict().items()}
            row |= {"val_balanced_accuracy": accuracy, "val_loss": val_loss}
        history = [*history, row]
        last = done == recipe.epochs or exhausted(history, recipe.patience)
        if ranks.leads() and (done % save_every == 0 or last):
            save_checkpoint(checkpoint, state, history)
        on_epoch(Progress(done, history, pace))
    network.load_state_dict(state.best)
    sample_with(network, None)
    return history


def evaluations(history: History) -> list[float]:
    """Validation losses so far."""
    return [row["val_loss"] for row in history if row["val_loss"] is not None]


def exhausted(history: History, patience: int) -> bool:
    """Whether the last `patience` evaluations have not lowered the validation loss; never with a patience of 0."""
    losses = evaluations(history)
    return 0 < patience < len(losses) and min(losses[-patience:]) >= min(losses[:-patience])


def evaluate(
    network: nn.Module, train: Part, val: Part, norm: Standard, compute: Compute, *, regathered: bool
) -> tuple[float, float]:
    """Balanced accuracy and balanced loss on validation, in expectation mode; `regathered` as told in `fit`."""
    sample_with(network, None)
    if regathered:
        network = copy.deepcopy(network)
        regather(network, train.images, norm, compute, STATISTICS)
    logits = predict(network, val.images, norm, compute)
    return balanced_accuracy(val.labels, logits.argmax(1)), balanced_loss(val.labels, logits)
