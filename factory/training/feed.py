"""The training images, varied: what a network is fed with, epoch by epoch."""

import torch
from torch import Tensor

from factory.data.dataset import Part
from factory.training.augment import augment
from factory.training.pictures import Standard, near
from factory.training.recipe import Recipe, seed_of


class Feed:
    """Images and labels of a training. Where flips are on, each image is mirrored in every second epoch.

    A coin decides once for each image in which ones, so that two epochs in a row show both of its sides
    (alternating flip: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds", section 3.6).
    """

    def __init__(self, train: Part, norm: Standard, recipe: Recipe, device: str) -> None:
        self.recipe, self.device = recipe, torch.device(device)
        self.pictures, self.labels = near(train.images, device), torch.from_numpy(train.labels).to(device)
        mean, std = (torch.tensor(v, device=device)[None, :, None, None] for v in (norm.mean, norm.std))
        self.scale, self.shift = 1 / std, -mean / std
        coins = torch.rand(len(train.labels), generator=torch.Generator().manual_seed(seed_of("mirror", recipe.seed)))
        self.mirrored_first = (coins < 0.5).to(device)

    def batches(self, epoch: int) -> tuple[Tensor, ...]:
        """The indices of the images in every batch of an epoch; what does not fill a batch is left out of it."""
        stream = torch.Generator().manual_seed(seed_of("order", self.recipe.seed, epoch))
        order = torch.randperm(len(self.labels), generator=stream).to(self.pictures.device)
        return order[: self.images].chunk(self.steps)

    @property
    def steps(self) -> int:
        """Batches in an epoch; images that are fewer than a batch are one."""
        return max(1, len(self.labels) // self.recipe.batch)

    @property
    def images(self) -> int:
        """Images in an epoch."""
        return min(len(self.labels), self.steps * self.recipe.batch)

    def serve(self, rows: Tensor, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, C, H, W), varied and normalised, labels (B,) and `rows` (B,), all on the device."""
        taken = self.pictures.index_select(0, rows).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        rows = rows.to(self.device, non_blocking=True)
        mirrored = self.mirrored_first[rows] ^ bool(epoch % 2)
        x = augment(taken.float().div_(255), self.recipe.augmentation, generator, mirrored)
        x = torch.addcmul(self.shift, x, self.scale)
        return x.contiguous(memory_format=torch.channels_last), self.labels[rows], rows
