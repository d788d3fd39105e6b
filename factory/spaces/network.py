"""From a plan to a torch network: trainable with batch-norm and Swapout, or plain as it is deployed."""

import torch
from torch import Tensor, nn

from factory.spaces.plan import Block, Conv, Plan
from factory.swapout.layer import Swapout, joins
from factory.swapout.network import Network, ResidualBlock
from factory.swapout.schedule import Noise


class _DepthwiseConv2d(nn.Conv2d):
    """Multiplies in float32 under autocast on a CPU, where the backward pass in bfloat16 takes several times longer."""

    def forward(self, input: Tensor) -> Tensor:
        if input.is_cpu and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(input.float())
        return super().forward(input)


def _conv(conv: Conv, norm: bool) -> list[nn.Module]:
    layer = nn.Conv2d if conv.groups == 1 else _DepthwiseConv2d
    layers: list[nn.Module] = [
        layer(
            conv.channels_in,
            conv.channels_out,
            conv.kernel,
            stride=conv.stride,
            padding=conv.kernel // 2,
            groups=conv.groups,
            bias=not norm,
        )
    ]
    if norm:
        layers.append(nn.BatchNorm2d(conv.channels_out))
    if conv.relu:
        layers.append(nn.ReLU())
    return layers


def _block(block: Block, join: Swapout | None, norm: bool) -> nn.Module:
    branch = nn.Sequential(*(layer for conv in block.branch for layer in _conv(conv, norm)))
    activation = nn.ReLU() if block.relu_after else nn.Identity()
    if join is None:
        return nn.Sequential(*branch, *([activation] if block.relu_after else []))
    shortcut = None if block.shortcut is None else nn.Sequential(*_conv(block.shortcut, norm))
    return ResidualBlock(branch, shortcut, join, activation)


def build(plan: Plan, noise: Noise | None = None, *, norm: bool = True) -> Network:
    """Return the network of `plan` with torch's default initialisation, drawn from torch's global generator.

    Args:
        plan: shapes of every layer.
        noise: masks of the residual blocks; None is the plain residual network.
        norm: with batch-norm, for training; without, the collapsed network, whose convolutions have a bias.

    Raises:
        ValueError: if a list of probabilities in `noise` does not have one for each stage or residual block.
    """
    layers = iter(joins(noise or Noise.plain(), plan.stages))
    blocks = [_block(block, next(layers) if block.residual else None, norm) for block in plan.blocks]
    return Network(nn.Sequential(*_conv(plan.stem, norm)), blocks, nn.Linear(plan.features, plan.classes))
