"""How a layer with weights takes up the scale of what it reads, and of what it gives, without a node of its own."""

import copy
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from factory.swapout.graph import ELEMENTWISE_LAYERS, WEIGHTED, NotCollapsible

_OWN: Final = frozenset(
    {nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm}
    | {nn.GroupNorm, nn.LayerNorm}
)


def reads_scaled(layer: nn.Module | None) -> bool:
    """Whether the layer can compute from u what it computed from x = s * u."""
    if isinstance(layer, _BatchNorm):
        return layer.running_mean is not None
    return isinstance(layer, WEIGHTED) and not isinstance(layer, _ConvTransposeNd)


def gives_scaled(layer: nn.Module | None) -> bool:
    """Whether the layer can give its output times a factor. A norm may end in activations, which must pass it on."""
    if not reads_scaled(layer) or not isinstance(layer, WEIGHTED) or layer.weight is None:
        return False
    norm = isinstance(layer, _BatchNorm | nn.GroupNorm | nn.LayerNorm)
    return not norm or all(type(child) in ELEMENTWISE_LAYERS for child in layer.children())


def _over_columns(scale: Tensor, layer: _ConvNd | nn.Linear) -> Tensor:
    """The scale of every weight (out, in / groups, ...); a linear layer may read several units of each channel."""
    if scale.ndim == 0:
        return scale
    if isinstance(layer, nn.Linear):
        return scale.repeat_interleave(layer.in_features // len(scale))
    rows = scale.view(layer.groups, -1).repeat_interleave(layer.out_channels // layer.groups, 0)
    return rows.view(*rows.shape, *(1,) * (layer.weight.ndim - 2))


def _over_channels(scale: Tensor, x: Tensor) -> Tensor:
    return scale.view(-1, *(1,) * (x.ndim - 2)) if scale.ndim else scale


@torch.no_grad()
def absorb_input(layer: nn.Module, scale: Tensor) -> None:
    """Change `layer` so that it computes from u what it computed from scale * u.

    Batch-norm takes it up in the variance, (var + eps) / s^2 - eps, not in gamma: statistics gathered anew afterwards
    then fit.

    Args:
        layer: convolution, linear or norm in float64.
        scale: float64, one number or one a channel, all positive.

    Raises:
        NotCollapsible: if a norm over several channels reads channels of different scale.
    """
    if isinstance(layer, _ConvNd | nn.Linear):
        layer.weight.mul_(_over_columns(scale, layer))
    elif isinstance(layer, _BatchNorm):
        assert layer.running_mean is not None and layer.running_var is not None
        layer.running_mean.div_(scale)
        layer.running_var.add_(layer.eps).div_(scale**2).sub_(layer.eps)
    elif isinstance(layer, nn.GroupNorm | nn.LayerNorm):
        if scale.ndim:
            raise NotCollapsible(f"a {type(layer).__name__} reads channels of different scale")
        layer.eps /= float(scale) ** 2


@torch.no_grad()
def absorb_output(layer: nn.Module, factor: Tensor) -> None:
    """Multiply the output of `layer`, one of those of `absorb_input`, by `factor`: one number or one a channel."""
    assert isinstance(layer, WEIGHTED)
    if factor.ndim and isinstance(layer, nn.LayerNorm):
        raise NotCollapsible("a LayerNorm gives channels of different scale")
    layer.weight.mul_(factor.view(-1, *(1,) * (layer.weight.ndim - 1)) if factor.ndim else factor)
    if layer.bias is not None:
        layer.bias.mul_(factor)


def _example(layer: nn.Module) -> Tensor | None:
    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, _ConvNd):
        sides = [2 * ((k - 1) * d + 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        return torch.randn(2, layer.in_channels, *sides, generator=generator, dtype=torch.float64)
    if isinstance(layer, nn.Linear):
        return torch.randn(2, layer.in_features, generator=generator, dtype=torch.float64)
    if isinstance(layer, nn.BatchNorm2d):
        return torch.randn(2, layer.num_features, 3, 3, generator=generator, dtype=torch.float64)
    return None


@torch.no_grad()
def check_absorbs(name: str, layer: nn.Module, scale: Tensor, factor: Tensor) -> None:
    """Try out a layer whose forward pass may not be torch's own: a subclass, or one with hooks or parametrised weights.

    Raises:
        NotCollapsible: if it does not take up the scales, as when it standardises its weights.
    """
    if type(layer) in _OWN and not layer._forward_pre_hooks and not layer._forward_hooks:
        return
    layer = copy.deepcopy(layer).double().cpu().eval()
    u, same = _example(layer), False
    if u is not None:
        columns = _over_columns(scale, layer) if isinstance(layer, nn.Linear) else _over_channels(scale, u)
        wanted = layer(columns * u)
        wanted = _over_channels(factor, wanted) * wanted
        absorb_input(layer, scale)
        absorb_output(layer, factor)
        same = torch.allclose(layer(u), wanted, rtol=1e-9, atol=1e-12)
    if not same:
        raise NotCollapsible(f"{name}: a {type(layer).__name__} does not scale with its weights")
