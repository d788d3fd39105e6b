"""Augmentation in batches, on the device, from an explicit generator."""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from factory.profiles import Augmentation


def _coins(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(count, generator=generator, device=device) < 0.5


def _uniform(count: int, bound: float, generator: torch.Generator, device: torch.device) -> Tensor:
    return (torch.rand(count, generator=generator, device=device) * 2 - 1) * bound


@cache
def _quantiles(device: torch.device) -> Tensor:
    """256 equally likely values of unit variance, spaced as those of the normal distribution."""
    values = torch.special.ndtri((torch.arange(256) + 0.5) / 256)
    unit: Tensor = values / values.std(correction=0)
    return unit.to(device)


def _normal(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """Normal noise in 256 steps: on a CPU drawing a byte a pixel costs a third of drawing a float."""
    count = shape.numel()
    words = torch.empty((count + 7) // 8, dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=generator)
    return _quantiles(device).index_select(0, words.view(torch.uint8)[:count].int()).view(shape)


def _symmetries(x: Tensor, settings: Augmentation, generator: torch.Generator, mirrored: Tensor | None) -> Tensor:
    """Flips and turns, which move pixels without mixing them; a picture that is not square makes half turns only."""
    if settings.flip_horizontal:
        mirrored = _coins(len(x), generator, x.device) if mirrored is None else mirrored
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    if settings.flip_vertical:
        x = torch.where(_coins(len(x), generator, x.device)[:, None, None, None], x.flip(2), x)
    if settings.quarter_turns:
        x = torch.where(_coins(len(x), generator, x.device)[:, None, None, None], x.flip(2, 3), x)
        if x.shape[2] == x.shape[3]:
            x = torch.where(_coins(len(x), generator, x.device)[:, None, None, None], x.rot90(1, (2, 3)), x)
    return x


def _warp(x: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Small shifts and rotations, mirrored at the border."""
    count, _, height, width = x.shape
    angle = _uniform(count, math.radians(settings.rotation_degrees), generator, x.device)
    theta = torch.zeros(count, 2, 3, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos()
    theta[:, 0, 1] = -angle.sin() * height / width
    theta[:, 1, 0] = angle.sin() * width / height
    theta[:, 0, 2] = _uniform(count, 2 * settings.shift, generator, x.device)  # a grid spans 2 a side
    theta[:, 1, 2] = _uniform(count, 2 * settings.shift, generator, x.device)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def augment(x: Tensor, settings: Augmentation, generator: torch.Generator, mirrored: Tensor | None = None) -> Tensor:
    """Return a varied copy of float32 images (N, C, H, W) in [0, 1]; the result may leave that range slightly.

    `mirrored`, bool (N,), says which ones a horizontal flip, where the settings allow it, is to turn over; without it
    a coin an image does.
    """
    x = _symmetries(x, settings, generator, mirrored)
    if settings.shift or settings.rotation_degrees:
        x = _warp(x, settings, generator)
    if settings.contrast or settings.brightness:
        gain = 1 + _uniform(len(x), settings.contrast, generator, x.device)[:, None, None, None]
        step = _uniform(len(x), settings.brightness, generator, x.device)[:, None, None, None]
        x = torch.addcmul((1 - gain) * x.mean((1, 2, 3), keepdim=True) + step, x, gain)  # contrast about the mean
    if settings.noise:
        level = torch.rand(len(x), generator=generator, device=x.device)[:, None, None, None] * settings.noise
        x = torch.addcmul(x, level, _normal(x.shape, generator, x.device))
    return x
