"""The shape of network that collapses: a stem, a chain of blocks on one stream, a linear head."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from factory.swapout.layer import Swapout


class ResidualBlock(nn.Module):
    """activation(join(shortcut(x), branch(x))), with a positively homogeneous activation (ReLU or identity).

    `shortcut` is None for an identity skip, else a chain of convolutions (a projection).
    """

    def __init__(
        self, branch: nn.Sequential, shortcut: nn.Sequential | None, join: Swapout, activation: nn.Module
    ) -> None:
        super().__init__()
        if not isinstance(activation, nn.ReLU | nn.Identity):
            raise TypeError(f"{type(activation).__name__} on the stream does not collapse: use ReLU or Identity")
        self.branch, self.shortcut, self.join, self.activation = branch, shortcut, join, activation

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        skip = x if self.shortcut is None else self.shortcut(x)
        return cast(Tensor, self.activation(self.join(skip, self.branch(x))))


class Network(nn.Module):
    """Images (N, C, H, W), normalised, to logits (N, classes).

    A block is a `ResidualBlock`, or a plain `Sequential` where the shape changes and there is nothing to skip.
    """

    def __init__(self, stem: nn.Sequential, blocks: list[nn.Module], head: nn.Linear) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.ModuleList(blocks), head

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, classes)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.head(x.mean((2, 3))))


def _folded(chain: nn.Sequential) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in chain:
        if isinstance(layer, nn.BatchNorm2d):
            convolution = layers.pop() if layers else None
            if not isinstance(convolution, nn.Conv2d):
                raise TypeError("a batch-norm that does not follow a convolution does not fold")
            layers.append(fuse_conv_bn_eval(convolution, layer))
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


@torch.no_grad()
def fold_norms(network: Network) -> None:
    """Fold every batch-norm of `network`, in evaluation mode, into the convolution before it, in place.

    Raises:
        TypeError: if a batch-norm does not follow a convolution.
    """
    network.stem = _folded(network.stem)
    for index, block in enumerate(network.blocks):
        if isinstance(block, ResidualBlock):
            block.branch = _folded(block.branch)
            block.shortcut = None if block.shortcut is None else _folded(block.shortcut)
            if block.join.p2 == 0:  # so that a plain network with these weights, which adds the branch, adds nothing
                last = [layer for layer in block.branch if isinstance(layer, nn.Conv2d)][-1]
                last.weight.zero_()
                if last.bias is not None:
                    last.bias.zero_()
        elif isinstance(block, nn.Sequential):
            network.blocks[index] = _folded(block)
