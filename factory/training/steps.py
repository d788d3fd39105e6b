"""One training step. Its batch is split into micro-batches, so that less memory, or another process, can do a part.

Every micro-batch has a stream of random numbers of its own and starts from the batch-norm statistics before the step;
their gradients and statistics are summed pairwise, as a tree over the parts. So the result is a function of the
number of parts and not of who computes them, bit for bit where the number of processes is a power of two.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import get_total_norm

from export.runtime.errors import EnvironmentLacks, FactoryError, UsageError
from factory.data.dataset import Part
from factory.progress import say
from factory.swapout.layer import sample_with
from factory.training import ranks
from factory.training.averaging import Average
from factory.training.compute import Compute
from factory.training.feed import Feed
from factory.training.pictures import Standard
from factory.training.recipe import Recipe, learning_rate, optimiser, seed_of
from factory.training.teaching import Teaching


class DivergedError(FactoryError):
    """The loss or the weights stopped being numbers."""

    exit_code = 1


def diverged(epoch: int, step: int, what: str) -> DivergedError:
    """The error for a step, counted like its epoch from 0, at which `what` was no number."""
    return DivergedError(
        f"training diverged in epoch {epoch + 1}, step {step + 1}: {what} no number",
        fix="lower training.learning_rate; the last good checkpoint is kept",
    )


@dataclass(frozen=True, slots=True)
class Step:
    """Where in the training a step is, both from 0, and the indices of its images."""

    epoch: int
    index: int
    rows: Tensor


def _class_weights(part: Part, classes: int) -> Tensor:
    counts = np.bincount(part.labels, minlength=classes)
    return torch.tensor(len(part.labels) / (classes * np.maximum(counts, 1)), dtype=torch.float32)


def _tree(term: Callable[[int], Tensor], places: Sequence[int]) -> Tensor:
    """Sum the terms of all places pairwise; no more than log2 of their number are held at once."""
    if len(places) == 1:
        return term(places[0])
    half = len(places) // 2
    return _tree(term, places[:half]) + _tree(term, places[half:])


class Trainer:
    """A network in training. `parts` is the number of micro-batches now; it doubles where memory does not suffice."""

    def __init__(
        self,
        network: nn.Module,
        train: Part,
        norm: Standard,
        recipe: Recipe,
        compute: Compute,
        teaching: Teaching | None,
    ) -> None:
        _require_parts(recipe, len(train.labels))
        self.network = network.to(compute.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe, self.compute, self.teaching, self.parts = recipe, compute, teaching, recipe.parts
        self.feed = Feed(train, norm, recipe, compute.device)
        self.optimiser = optimiser(self.network, recipe)
        self.average = Average(self.network, recipe.averaging) if recipe.averaging else None
        classes = int(train.labels.max()) + 1
        weights = _class_weights(train, classes) if recipe.class_weights else torch.ones(classes)
        self.weights = weights.to(compute.device)
        self.generator = torch.Generator(compute.device)
        self.buffers = list(self.network.buffers())
        self.before = [buffer.clone() for buffer in self.buffers]

    def epoch(self, epoch: int) -> float:
        """One pass over the training images; all its randomness comes from (seed, epoch). Returns the mean loss.

        Raises:
            DivergedError: if a loss of the pass, or the state after it, is not finite.
            EnvironmentLacks: if the memory of the device does not even take two images at a time.
        """
        sample_with(self.network, self.generator if self.recipe.sampled else None)
        self.network.train()
        steps, recipe = self.feed.steps, self.recipe
        losses = torch.empty(steps, device=self.compute.device)
        for index, rows in enumerate(self.feed.batches(epoch)):
            done = epoch * steps + index
            rate = recipe.learning_rate * recipe.batch / 64 * learning_rate(done / (recipe.epochs * steps))
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            losses[index] = self.step(Step(epoch, index, rows))
            if self.average is not None:
                self.average.update(done)
        self._require_finite(losses.cpu(), epoch)
        return float(losses.double().mean())

    def _require_finite(self, losses: Tensor, epoch: int) -> None:
        """Looked at once an epoch: the device is not kept waiting in between."""
        (bad,) = torch.where(~losses.isfinite())
        if len(bad):
            raise diverged(epoch, int(bad[0]), "the loss is")
        momentum = [state["momentum_buffer"] for state in self.optimiser.state.values()]
        state = [t for t in (*self.network.state_dict().values(), *momentum) if t.is_floating_point()]
        if not get_total_norm(state, math.inf).isfinite():
            raise diverged(epoch, len(losses) - 1, "the weights after it are")

    def step(self, step: Step) -> Tensor:
        """One step of the optimiser; returns the loss of the batch before it, a scalar on the device."""
        parts = self.parts
        torch._foreach_copy_(self.before, self.buffers)
        found = self._attempt(step)
        while ranks.anywhere(found is None):
            found = None
            self._double(step)
            found = self._attempt(step)
        assert found is not None
        if self.parts != parts and ranks.leads():
            say(
                f"memory was short in epoch {step.epoch + 1}, step {step.index + 1}: from here on a batch goes through "
                f"in {self.parts} parts of about {len(step.rows) // self.parts} images"
            )
        loss = found if self.parts == 1 else self._take(found)
        self.optimiser.step()
        return loss

    def _attempt(self, step: Step) -> Tensor | None:
        """The loss, with the gradients in place; for several parts the sum of those done here (`_flat`).

        None where memory does not suffice.
        """
        try:
            if self.parts == 1:
                return self._part(step, 0)
            return _tree(partial(self._flat, step), ranks.own(self.parts))
        except torch.OutOfMemoryError:
            return None

    def _part(self, step: Step, part: int) -> Tensor:
        """Leave the gradients of one micro-batch in the network; they and its loss count by its share of the images."""
        self.generator.manual_seed(seed_of("part", self.recipe.seed, step.epoch, step.index, part))
        rows = step.rows.tensor_split(self.parts)[part]
        x, truth, rows = self.feed.serve(rows, step.epoch, self.generator)
        with self.compute.autocast():
            logits = self.network(x)
        logits = logits.float()
        loss = functional.cross_entropy(logits, truth, self.weights, label_smoothing=self.recipe.label_smoothing)
        if self.teaching is not None:
            loss = self.teaching.loss(loss, logits, rows, x)
        loss = loss * (len(rows) / len(step.rows))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _flat(self, step: Step, part: int) -> Tensor:
        """Loss, gradients and statistics of one micro-batch as one vector; those of all parts sum to the step's."""
        torch._foreach_copy_(self.buffers, self.before)
        loss = self._part(step, part)
        gradients, statistics = self._shared()
        averaged = [tensor / self.parts for tensor in statistics]
        return torch.cat([tensor.reshape(-1) for tensor in (loss, *gradients, *averaged)])

    def _take(self, mine: Tensor) -> Tensor:
        """Sum over all processes, put gradients and statistics in place, and return the loss."""
        everyone = ranks.gathered(mine)
        total = _tree(everyone.__getitem__, range(len(everyone)))
        gradients, statistics = self._shared()
        shared = [*gradients, *statistics]
        loss, *pieces = torch.split(total, [1, *(tensor.numel() for tensor in shared)])
        for tensor, piece in zip(shared, pieces, strict=True):
            tensor.copy_(piece.view_as(tensor))
        return loss.squeeze(0)

    def _shared(self) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients and float statistics, always in the same order; whole-number ones are alike in every part."""
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        return gradients, [buffer for buffer in self.buffers if buffer.is_floating_point()]

    def _double(self, step: Step) -> None:
        """Forget what the attempt did and halve the micro-batches."""
        self.optimiser.zero_grad(set_to_none=True)
        torch._foreach_copy_(self.buffers, self.before)
        if self.compute.device == "cuda":
            torch.cuda.empty_cache()
        self.parts *= 2
        if len(step.rows) // self.parts < 2:
            raise EnvironmentLacks(
                f"memory does not suffice to train this network (epoch {step.epoch + 1}, step {step.index + 1})",
                expected=f"room on {self.compute.device} for 2 images at a time",
                fix="choose a smaller input or network, or a device with more memory",
            )


def _require_parts(recipe: Recipe, images: int) -> None:
    ranks.own(recipe.parts)
    smallest = min(recipe.batch, images) // recipe.parts
    if smallest < 2:
        raise UsageError(
            "a batch cannot be split so far",
            expected="at least 2 images in each of training.parts micro-batches",
            found=str(smallest),
            fix="lower training.parts or raise training.batch",
        )
