"""What a network says of images, in its modes: one pass in expectation, or the mean of sampled passes.

A collapsed network is asked like any other: it has one mode.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.runtime.decision import softmax
from factory.swapout.layer import sample_with
from factory.training.compute import Compute
from factory.training.pictures import Standard, predict


@dataclass(frozen=True, slots=True)
class Prediction:
    """Logits (N, K), whose softmax are the probabilities; the disagreement (N,) of sampled passes, else None."""

    logits: NDArray[np.float32]
    disagreement: NDArray[np.float64] | None


def _entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    logs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    entropy: NDArray[np.float64] = -(probabilities * logs).sum(axis=-1)
    return entropy


def infer(
    network: nn.Module,
    images: NDArray[np.uint8],
    norm: Standard,
    compute: Compute,
    samples: int | None = None,
    seed: int = 0,
) -> Prediction:
    """Ask `network` of uint8 images (N, H, W, C).

    Without `samples` every Swapout layer computes its expectation. With them the answer is the mean of the
    probabilities of that many passes, each with masks of its own drawn from `seed` (Singh, Hoiem and Forsyth 2016,
    section 3.3), and the disagreement is how much, in nats, the passes know more than their mean: the entropy of the
    mean less the mean of the entropies (Houlsby et al. 2011).
    """
    if samples is None:
        sample_with(network, None)
        return Prediction(predict(network, images, norm, compute), None)
    sample_with(network, torch.Generator(compute.device).manual_seed(seed))
    total: Any = 0.0
    entropies: Any = 0.0
    try:
        for _ in range(samples):
            probabilities = softmax(predict(network, images, norm, compute))
            total, entropies = total + probabilities, entropies + _entropy(probabilities)
    finally:
        sample_with(network, None)
    mean = total / samples
    logits = np.log(np.maximum(mean, np.finfo(np.float32).tiny)).astype(np.float32)
    return Prediction(logits, np.maximum(_entropy(mean) - entropies / samples, 0.0))
