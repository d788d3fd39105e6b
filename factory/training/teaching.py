"""Distillation: a network learns from the answers of another beside the labels (Hinton, Vinyals, Dean 2015)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Teacher = Callable[[Tensor, Tensor], Tensor]
"""teacher(rows, x): logits float32 (B, K) on the device, for the training images `rows` (int64, (B,)) that the network
sees as the normalised, varied batch x (B, C, H, W). Called without gradient."""


@dataclass(frozen=True)
class Teaching:
    """A teacher, the temperature that softens its answers, and their weight in the loss, in [0, 1]."""

    teacher: Teacher
    temperature: float
    weight: float

    def loss(self, hard: Tensor, logits: Tensor, rows: Tensor, x: Tensor) -> Tensor:
        """(1 - weight) * hard + weight * temperature^2 * KL(teacher || student), both softened (section 2).

        Args:
            hard: the loss by the labels, a scalar.
            logits: of the student, float32 (B, K).
            rows: (B,) indices of the training images.
            x: (B, C, H, W) what the student saw.
        """
        with torch.no_grad():
            answers = (self.teacher(rows, x) / self.temperature).log_softmax(1)
        student = (logits / self.temperature).log_softmax(1)
        soft = functional.kl_div(student, answers, reduction="batchmean", log_target=True)
        return (1 - self.weight) * hard + self.weight * self.temperature**2 * soft


class _Fixed:
    def __init__(self, logits: NDArray[np.float32], device: str | torch.device) -> None:
        self.answers, self.device = torch.from_numpy(logits).to(device), device

    def __call__(self, rows: Tensor, x: Tensor) -> Tensor:
        return self.answers[rows]

    def __reduce__(self) -> tuple[Any, ...]:
        return _Fixed, (self.answers.cpu().numpy(), self.device)  # "cuda" is another GPU in another process


def fixed(logits: NDArray[np.float32], device: str | torch.device) -> Teacher:
    """A teacher that looks its answers up: row i of float32 (N, K) is that for training image i."""
    return _Fixed(logits, device)
