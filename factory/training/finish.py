"""From the trained Swapout network to the plain one: batch-norm in expectation mode, exact collapse, proof."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import BatchNorm2d

from export.runtime.errors import GateError
from factory.data.dataset import Dataset, Part
from factory.spaces.network import build
from factory.spaces.plan import Plan
from factory.swapout.collapse import collapse
from factory.swapout.layer import sample_with
from factory.swapout.network import Network
from factory.training.checkpoint import read_tensors, save_weights
from factory.training.compute import Compute
from factory.training.loop import Standard, predict, to_device
from factory.training.metrics import balanced_accuracy, balanced_loss
from factory.workspace import write_json

TOLERANCE: Final = 1e-10  # largest difference of a logit, relative to the largest logit, in float64
BATCH: Final = 256
PLAIN: Final = "plain.safetensors"
EXPECTED: Final = "expectation.safetensors"


@dataclass(frozen=True, slots=True)
class Finished:
    """Figures of the finish on validation images."""

    difference: float
    trained: tuple[float, float]  # balanced accuracy and balanced loss with the statistics of the sampled training
    finished: tuple[float, float]  # the same, re-estimated and collapsed


@torch.no_grad()
def reestimate(network: Network, train: Part, norm: Standard, compute: Compute) -> None:
    """Gather batch-norm statistics anew, in expectation mode, over the unvaried training images.

    Statistics gathered while units are dropped do not fit the network that drops none (Li et al. 2018).
    Every batch counts alike (cumulative mean).
    """
    torch.set_num_threads(compute.threads)
    sample_with(network, None)
    network.to(compute.device).train()
    norms = [m for m in network.modules() if isinstance(m, BatchNorm2d)]
    usual = [m.momentum for m in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0))
    pixels = to_device(train.images, compute.device)
    for rows in order.chunk(max(1, len(order) // BATCH)):
        network(norm.apply(pixels[rows.to(pixels.device)].float() / 255))
    for module, momentum in zip(norms, usual, strict=True):
        module.momentum = momentum
    network.cpu().eval()


@torch.no_grad()
def difference(network: Network, plain: Network, images: NDArray[np.uint8], norm: Standard) -> float:
    """Largest difference of a logit between expectation mode and the collapsed network, in float64, relative."""
    x = norm.apply(to_device(images, "cpu").double() / 255)
    expected = copy.deepcopy(network).double().eval()(x)
    return float((expected - plain.double()(x)).abs().max() / expected.abs().max())


def finish(network: Network, data: Dataset, norm: Standard, compute: Compute, folder: Path) -> None:
    """Write expectation.safetensors, plain.safetensors (float32) and finish.json into `folder`.

    Raises:
        GateError: if the collapsed network does not compute what the trained one does.
    """

    def figures(net: Network) -> tuple[float, float]:
        logits = predict(net, data.val.images, norm, Compute("cpu", "float32", compute.threads))
        return balanced_accuracy(data.val.labels, logits.argmax(1)), balanced_loss(data.val.labels, logits)

    trained = figures(network)
    reestimate(network, data.train, norm, compute)
    plain = collapse(network)
    error = difference(network, plain, data.val.images[:64], norm)
    if not error < TOLERANCE:
        raise GateError("the collapse is not exact", expected=f"below {TOLERANCE:g}", found=f"{error:.2g}")
    plain = plain.float()
    save_weights(folder / EXPECTED, network, {})
    save_weights(folder / PLAIN, plain, {})
    record = Finished(error, trained, figures(plain))
    write_json(
        folder / "finish.json",
        {"difference": record.difference, "trained": record.trained, "finished": record.finished},
    )


def load_expectation(network: Network, folder: Path) -> Network:
    """Load into `network` (with Swapout) the weights and re-estimated statistics that were collapsed."""
    network.load_state_dict(read_tensors(folder / EXPECTED)[0])
    return network.eval()


def load_plain(plan: Plan, folder: Path) -> Network:
    """Rebuild the collapsed network in float32."""
    network = build(plan, norm=False)
    network.load_state_dict(read_tensors(folder / PLAIN)[0])
    return network.eval()
