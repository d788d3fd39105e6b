"""Batch-norm statistics gathered anew, for a network that is used otherwise than it was trained."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import BatchNorm2d

from factory.training.compute import Compute
from factory.training.pictures import Standard, to_device

BATCH: Final = 256


@torch.no_grad()
def regather(
    network: nn.Module, images: NDArray[np.uint8], norm: Standard, compute: Compute, most: int | None = None
) -> None:
    """Replace the running statistics of `network`, which lies on the device, by those of unvaried images; in float32.

    Every batch counts alike (cumulative mean). The network is left in training mode.

    Args:
        network: with its Swapout layers as they are to be used.
        images: uint8 (N, H, W, C), read in an order of their own; of more than `most` a fixed sample.
        norm: of the images.
        compute: where the network lies.
        most: images to read; None for all.
    """
    norms = [m for m in network.train().modules() if isinstance(m, BatchNorm2d)]
    if not norms:
        return
    usual = [m.momentum for m in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:most]
    pixels = to_device(images, "cpu")
    for rows in order.chunk(max(1, len(order) // BATCH)):
        network(norm.apply(pixels[rows].to(compute.device).float() / 255))
    for module, momentum in zip(norms, usual, strict=True):
        module.momentum = momentum
