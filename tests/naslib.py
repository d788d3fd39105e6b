"""How NASLib's counter adds up the operations of a network, which is what its tables hold."""

import torch
from torch import Tensor, nn

from factory.spaces.layers import GlobalMean


def flops(network: nn.Module, adaptive: int = 0) -> int:
    """Operations of one 32 x 32 image; `adaptive` is the kernel area counted for an adaptive pooling to one pixel."""
    total = 0

    def hook(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        match module:
            case nn.Conv2d() | nn.Linear():
                total += output.numel() * module.weight[0].numel()
            case nn.ReLU():
                total += output.numel()
            case nn.BatchNorm2d():
                total += output.numel() * (2 if module.affine else 1)
            case nn.MaxPool2d() | nn.AvgPool2d():
                total += output.numel() * int(str(module.kernel_size)) ** 2
            case GlobalMean():
                total += output.numel() * adaptive

    for module in network.modules():
        module.register_forward_hook(hook)
    network(torch.empty(1, 3, 32, 32, device="meta"))
    return total
