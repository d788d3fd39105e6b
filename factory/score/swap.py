"""SWAP-Score: the number of distinct sample-wise activation patterns of an untrained network.

Peng et al., "SWAP-NAS", ICLR 2024, definitions 3.1 to 3.3: for S samples and V activation values after every ReLU,
each value gives the binary vector "is it positive for sample s?"; the score is the number of distinct vectors over
the whole network. Regularised (definition 3.4): times f(P) = exp(-(P - mu)^2 / sigma).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class SwapScore:
    """Mean over the initialisations, the count of each, V, and the share of min(V, 2^S) that the mean reaches."""

    swap: float
    per_init: tuple[int, ...]
    positions: int
    saturation: float


@dataclass(frozen=True, slots=True)
class SizeRegulariser:
    """f(P) = exp(-(P - mu)^2 / sigma) with P and mu in thousands of parameters, sigma in their square."""

    mu: float
    sigma: float

    def factor(self, params: int) -> float:
        """Return f for a network of `params` parameters, in (0, 1]."""
        return math.exp(-((params / 1e3 - self.mu) ** 2) / self.sigma)


def pack(positive: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack patterns (S, V) to bits: uint8 (V, ceil(S / 8))."""
    return np.ascontiguousarray(np.packbits(positive, axis=0).T)


def distinct(packed: list[NDArray[np.uint8]]) -> int:
    """Number of distinct rows over all arrays (V_i, B), B bytes a pattern."""
    rows = np.concatenate(packed)
    width = rows.shape[1]
    padded = np.zeros((len(rows), -(-width // 8) * 8 if width > 4 else 4), np.uint8)
    padded[:, :width] = rows
    if padded.shape[1] > 8:
        return len(np.unique(padded, axis=0))
    words = np.sort(padded.view(np.uint32 if padded.shape[1] == 4 else np.uint64).ravel())
    return int(np.count_nonzero(words[1:] != words[:-1])) + 1


def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    """N(0, 1) weights and zero biases, as the authors' released code does; batch-norm follows every layer."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _patterns(network: nn.Module, images: Tensor) -> list[NDArray[np.uint8]] | None:
    """Packed patterns of every ReLU, or None when the network is degenerate."""
    packed: list[NDArray[np.uint8]] = []

    def record(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        packed.append(pack((output > 0).flatten(1).numpy()))

    handles = [m.register_forward_hook(record) for m in network.modules() if isinstance(m, nn.ReLU)]
    try:
        with torch.inference_mode():
            logits = network(images)
    finally:
        for handle in handles:
            handle.remove()
    alive = bool(torch.isfinite(logits).all()) and bool((logits != logits[:1]).any())
    return packed if alive else None


def swap_score(build: Callable[[], nn.Module], images: Tensor, seed: int, repeats: int) -> SwapScore | None:
    """Score one architecture, a pure function of its arguments when torch runs on one thread.

    Args:
        build: returns the network with batch-norm and without noise.
        images: float32 (S, C, H, W), normalised.
        seed: of the initialisations; repeat r draws from seed * 1000 + r.
        repeats: number of initialisations.

    Returns:
        None when the network is degenerate: its output is not finite, or the same for every image.
    """
    network = build().train()
    counts, positions = [], 0
    for repeat in range(repeats):
        _initialise(network, torch.Generator().manual_seed(seed * 1000 + repeat))
        packed = _patterns(network, images)
        if packed is None:
            return None
        counts.append(distinct(packed))
        positions = sum(len(rows) for rows in packed)
    mean = sum(counts) / repeats
    return SwapScore(mean, tuple(counts), positions, mean / min(positions, 2.0 ** len(images)))
