"""Pictures on their way into a network: normalised, on the device, in batches."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from factory.training.compute import Compute

BATCH: Final = 256  # of a pass without gradient
DEVICE_SHARE: Final = 0.5  # of the free memory of a GPU that the training images may take


@dataclass(frozen=True, slots=True)
class Standard:
    """Mean and standard deviation of the training images, a value a channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, x: Tensor) -> Tensor:
        """Normalise float images (N, C, H, W) in [0, 1]."""
        mean, std = (torch.tensor(v, device=x.device)[None, :, None, None] for v in (self.mean, self.std))
        return (x - mean) / std


def standard(images: NDArray[np.uint8]) -> Standard:
    """Measure the mean and standard deviation of uint8 images (N, H, W, C)."""
    pixels = images.reshape(-1, images.shape[-1])
    mean = pixels.mean(0, dtype=np.float64) / 255
    std = np.maximum(pixels.std(0, dtype=np.float64) / 255, 1e-3)
    return Standard(tuple(float(v) for v in mean), tuple(float(v) for v in std))


def to_device(images: NDArray[np.uint8], device: str) -> Tensor:
    """uint8 (N, H, W, C) to a uint8 tensor (N, C, H, W) in channels-last layout on the device."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)


def near(images: NDArray[np.uint8], device: str) -> Tensor:
    """uint8 (N, H, W, C) on the device if they take at most half of its free memory; else they stay on the host."""
    large = device != "cpu" and images.nbytes > DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    return torch.from_numpy(np.ascontiguousarray(images)).to("cpu" if large else device)


@torch.inference_mode()
def predict(network: nn.Module, images: NDArray[np.uint8], norm: Standard, compute: Compute) -> NDArray[np.float32]:
    """Logits (N, classes) of the network in evaluation mode."""
    network.eval()
    batches = torch.split(to_device(images, "cpu"), BATCH)
    with compute.autocast():
        parts = [network(norm.apply(x.to(compute.device).float() / 255)).float().cpu() for x in batches]
    return torch.cat(parts).numpy()
