import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from factory.data.dataset import Dataset
from factory.profiles import Augmentation
from factory.swapout.network import Network
from factory.training.compute import Compute
from factory.training.loop import fit
from factory.training.pictures import standard
from factory.training.recipe import Recipe
from factory.training.teaching import Teaching, fixed

EXACT = Compute("cpu", "float32", 1)


def test_the_loss_is_that_of_the_paper_by_plain_sums() -> None:
    rng = np.random.default_rng(0)
    answers, logits = rng.normal(0, 3, (2, 5, 3)).astype(np.float32)
    rows, x = torch.tensor([4, 0, 3]), torch.zeros(3, 1, 2, 2)
    t, weight = 2.5, 0.3

    def soft(values: np.ndarray) -> list[float]:
        powers = [math.exp(v / t) for v in values.tolist()]
        return [p / sum(powers) for p in powers]

    total = 0.0
    for row, own in zip(rows, logits[:3], strict=True):
        total += sum(p * math.log(p / q) for p, q in zip(soft(answers[row]), soft(own), strict=True))
    teaching = Teaching(fixed(answers, "cpu"), t, weight)
    found = teaching.loss(torch.tensor(1.7), torch.from_numpy(logits[:3]), rows, x)
    assert float(found) == pytest.approx(0.7 * 1.7 + 0.3 * t * t * total / 3, rel=1e-5)


def test_a_fixed_teacher_answers_by_row_and_travels_between_processes() -> None:
    answers = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    rows = torch.tensor([5, 5, 1])
    for teacher in (fixed(answers, "cpu"), pickle.loads(pickle.dumps(fixed(answers, "cpu")))):  # noqa: S301
        assert np.array_equal(teacher(rows, torch.zeros(3, 1, 2, 2)), answers[[5, 5, 1]])


def test_a_network_learns_from_the_teacher_what_the_labels_do_not_say(
    fresh: Callable[..., Network],
    data_of: Callable[..., Dataset],
    recipe_of: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    """The teacher turns every label over, and it alone counts; it sees what the network sees, and gets no gradient."""
    data, norm = data_of(train=96), standard(data_of(train=96).train.images)
    truth = torch.from_numpy(data.train.labels)
    seen: list[Tensor] = []

    def contrary(rows: Tensor, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        pixels = torch.from_numpy(data.train.images).permute(0, 3, 1, 2)[rows] / 255
        torch.testing.assert_close(x, norm.apply(pixels))
        seen.append(rows)
        return 4.0 * torch.nn.functional.one_hot(1 - truth[rows], 2).float()

    still = Augmentation(shift=0, brightness=0, contrast=0, noise=0)
    recipe, network = recipe_of(epochs=12, augmentation=still), fresh()
    history = fit(
        network, data.train, data.val, norm, recipe, EXACT, tmp_path / "c", lambda _: None, Teaching(contrary, 1.0, 1.0)
    )
    assert sorted(torch.cat(seen[:6]).tolist()) == list(range(96))
    assert (history[-1]["loss"] or 9) < 0.5 * (history[0]["loss"] or 0)
    assert history[-1]["val_balanced_accuracy"] == 0
