"""SWAP-Score: the number of distinct sample-wise activation patterns of an untrained network.

Peng et al., "SWAP-NAS", ICLR 2024, definitions 3.1 to 3.3: for S samples and V activation values after every ReLU,
each value gives the binary vector "is it positive for sample s?"; the score is the number of distinct vectors over
the whole network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from factory.score.patterns import Words, distinct, distinct_on_device, pack, pack_on_device
from factory.score.protocol import ScoreProtocol
from factory.score.stack import Stack

STACKED: Final = 1 << 20  # values of the largest feature map of all copies together: as many as a core's cache holds


@dataclass(frozen=True, slots=True)
class SwapScore:
    """Mean over the initialisations, the count of each, V, and the share of min(V, 2^S) that the mean reaches."""

    swap: float
    per_init: tuple[int, ...]
    positions: int
    saturation: float


class Counter:
    """Packs what it is shown to bits at once: no float activation is kept."""

    def __init__(self, copies: int) -> None:
        self.copies, self.positions = copies, 0
        self.host: list[list[Words]] = [[] for _ in range(copies)]
        self.device: list[list[Tensor]] = [[] for _ in range(copies)]

    def again(self, x: Tensor) -> None:
        """Count the positions of a map."""
        self.positions += x[0].numel() // self.copies

    def record(self, x: Tensor) -> None:
        """Pack the patterns of a map (S, R * C, H, W) or of values (S, N)."""
        self.again(x)
        last = (x.permute(0, 2, 3, 1) if x.ndim == 4 else x[:, None, None]).flatten(1, 2)
        samples, pixels, channels = last.shape
        values = last.reshape(samples, -1)
        shape = (pixels, self.copies, channels // self.copies)
        if x.is_cpu:
            words = pack(values.numpy())
            parted = words.reshape(*shape, *words.shape[1:]).swapaxes(0, 1)
            for copy, part in enumerate(parted):
                self.host[copy].append(part.reshape(-1, *words.shape[1:]))
        else:
            on_device = pack_on_device(values)
            for copy, piece in enumerate(on_device.view(*shape, *on_device.shape[1:]).unbind(1)):
                self.device[copy].append(piece.flatten(0, 1))

    def counts(self) -> list[int]:
        """Distinct patterns of each copy."""
        if any(self.device):
            return cast(list[int], torch.stack([distinct_on_device(words) for words in self.device]).tolist())
        return [distinct(words) for words in self.host]


def _alive(logits: Tensor) -> bool:
    """Whether the output (S, R, K) of every copy is finite and not the same for all images."""
    return bool(torch.isfinite(logits).all()) and bool((logits != logits[:1]).any(2).any(0).all())


def copies_together(network: nn.Module, images: Tensor, repeats: int) -> int:
    """How many initialisations fit a core's cache together, judged by the map of the first convolution.

    A power of two, so that stacked channels fill vector registers.
    """
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    values = images.numel() if first is None else images[:, 0].numel() * first.out_channels // first.stride[0] ** 2
    return min(repeats, 1 << max(0, (STACKED // values).bit_length() - 1))


def pictured(images: Tensor, protocol: ScoreProtocol) -> Tensor:
    """Images (S, C, H, W) at the protocol's size, by area where they shrink, and with no more than its detail."""
    size = images.shape[2:] if protocol.image_size is None else (protocol.image_size, protocol.image_size)
    if images.shape[2:] != size:
        images = functional.interpolate(images, size, mode="area")
    if protocol.detail is not None:
        coarse = functional.interpolate(images, (protocol.detail, protocol.detail), mode="area")
        images = functional.interpolate(coarse, size, mode="bicubic", align_corners=False)
    return images


@torch.inference_mode()
def swap_score(build: Callable[[], nn.Module], images: Tensor, seed: int, protocol: ScoreProtocol) -> SwapScore | None:
    """Score one architecture: a pure function of its arguments when torch runs on one thread.

    Args:
        build: returns the network, without noise; it is built on torch's meta device, its weights are drawn here.
        images: float32 or float64 (S, C, H, W), normalised; S as the protocol says. Their device and dtype are used.
        seed: of the initialisations; repeat r draws from seed * 1000 + r.
        protocol: how to measure; its `channels` and `depth` are the business of `build`.

    Returns:
        None when the network is degenerate: its output is not finite, or the same for every image.

    Raises:
        UnscorableError: if the network has a smooth activation.
        ValueError: if the number of images is not the protocol's.
    """
    if len(images) != protocol.samples:
        raise ValueError(f"protocol {protocol.name!r} takes {protocol.samples} images, found {len(images)}")
    pictures = pictured(images, protocol)
    with torch.device("meta"):
        network = build()
    copies = copies_together(network, pictures, protocol.repeats)
    stack = Stack(network, copies, protocol.batch_norm)
    counts: list[int] = []
    positions = 0
    for first in range(0, protocol.repeats, copies):
        # the last stack may be more than is left: its copies too many are not counted
        seeds = range(seed * 1000 + first, seed * 1000 + first + copies)
        counter = Counter(copies)
        stack.draw(seeds, protocol.initialisation == "kaiming", pictures)
        logits = stack(pictures, counter)
        counts += counter.counts()  # before a look at the logits: till then nothing returns from a GPU to the host
        if not _alive(logits):
            return None
        positions = counter.positions
    del counts[protocol.repeats :]
    mean = sum(counts) / protocol.repeats
    return SwapScore(mean, tuple(counts), positions, mean / max(1.0, min(positions, 2.0 ** len(images))))
