"""Parameters, multiply-adds and activation values of any network, from shapes alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Counts:
    """Trainable parameters, MACs of convolutions and linear layers of one image, values after every ReLU."""

    params: int
    macs: int
    positions: int


def parameters(build: Callable[[], nn.Module]) -> int:
    """Count the trainable parameters of the network that `build` returns, without giving them memory."""
    with torch.device("meta"):
        network = build()
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def count(build: Callable[[], nn.Module], image_channels: int, image_size: int) -> Counts:
    """Count the network that `build` returns, on images of image_size x image_size, without computing anything."""
    with torch.device("meta"):
        network = build().eval()
        images = torch.empty(1, image_channels, image_size, image_size)
    macs = positions = 0

    def hook(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal macs, positions
        if isinstance(module, nn.ReLU):
            positions += output.numel()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            macs += output.numel() * module.weight[0].numel()

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(hook)
    with torch.no_grad():
        network(images)
    return Counts(sum(p.numel() for p in network.parameters() if p.requires_grad), macs, positions)
