"""The exact collapse: a trained Swapout network in expectation mode becomes one plain network.

In expectation mode x' = phi(p1 x + p2 F(x)) with phi(c z) = c phi(z) for c > 0. Write x = s u. Then
u' = phi(u + (p2 / s') F(s u)) with s' = p1 s: the skip is a bare addition, p2 / s' goes into the last convolution
of F, and s into the first convolution of every reader of the stream. A projection has weights of its own, so the
scale starts again at 1 behind it. Batch-norm is folded first. Only E[T] enters, so any granularity of masks gives
the same network.
"""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from factory.swapout.layer import Swapout
from factory.swapout.network import Network, ResidualBlock


def _fold_norms(chain: nn.Sequential) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in chain:
        if isinstance(layer, nn.BatchNorm2d):
            convolution = layers.pop()
            if not isinstance(convolution, nn.Conv2d):
                raise TypeError("a batch-norm that does not follow a convolution does not fold")
            layers.append(fuse_conv_bn_eval(convolution, layer))
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def _convolutions(chain: nn.Sequential) -> list[nn.Conv2d]:
    return [layer for layer in chain if isinstance(layer, nn.Conv2d)]


def _scale_input(chain: nn.Sequential, scale: float) -> None:
    _convolutions(chain)[0].weight.mul_(scale)


def _scale_output(chain: nn.Sequential, scale: float) -> None:
    last = _convolutions(chain)[-1]
    last.weight.mul_(scale)
    if last.bias is not None:
        last.bias.mul_(scale)


def _collapse_block(block: ResidualBlock, scale: float) -> float:
    """Collapse one block in place; return the scale of the stream behind it."""
    p1, p2 = block.join.p1, block.join.p2
    block.branch = _fold_norms(block.branch)
    _scale_input(block.branch, scale)
    if block.shortcut is None:
        scale_out = p1 * scale
    else:
        block.shortcut = _fold_norms(block.shortcut)
        _scale_input(block.shortcut, scale)
        _scale_output(block.shortcut, p1)
        scale_out = 1.0
    _scale_output(block.branch, p2 / scale_out)
    block.join = Swapout(1.0, 1.0)
    return scale_out


@torch.no_grad()
def collapse(network: Network) -> Network:
    """Return a plain copy of `network`: convolutions with bias, ReLU, bare additions, no batch-norm, no scale.

    Works in float64 and returns float64 weights; its outputs equal those of `network.double().eval()` in
    expectation mode up to rounding. The input is left as it is.
    """
    plain = copy.deepcopy(network).double().eval()
    plain.stem = _fold_norms(plain.stem)
    scale = 1.0
    for index, block in enumerate(plain.blocks):
        if isinstance(block, ResidualBlock):
            scale = _collapse_block(block, scale)
        elif isinstance(block, nn.Sequential):
            chain = _fold_norms(block)
            _scale_input(chain, scale)
            plain.blocks[index] = chain
            scale = 1.0
        else:
            raise TypeError(f"a {type(block).__name__} on the stream does not collapse")
    plain.head.weight.mul_(scale)
    return plain
