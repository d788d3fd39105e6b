"""From the trained Swapout network to the plain one: cures of the gap to many samples, exact collapse, proof.

A network trained under noise and asked in expectation mode is worse than the mean of many sampled passes: batch-norm
statistics gathered under noise do not fit it, and an expectation does not pass through a nonlinearity. Statistics
gathered anew, a few passes without noise, by the labels or by what samples of the network itself say, and one
temperature make it as good, in one pass. Which cure, the validation images tell.
"""

import copy
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.runtime.errors import GateError
from factory.data.dataset import Dataset, Part
from factory.spaces.network import build
from factory.spaces.plan import Plan
from factory.swapout.collapse import collapse
from factory.swapout.layer import probabilities, sample_with
from factory.swapout.network import Network
from factory.training.checkpoint import Progress, read_tensors, save_weights
from factory.training.compute import Compute
from factory.training.inference import infer
from factory.training.loop import fit
from factory.training.metrics import balanced_accuracy, balanced_loss, temperature
from factory.training.pictures import Standard, to_device
from factory.training.recipe import Recipe
from factory.training.statistics import regather
from factory.training.teaching import Teaching
from factory.workspace import read_json, write_json

TOLERANCE: Final = 1e-10  # largest difference of a logit, relative to the largest logit, in float64
CURE_SHARE: Final = 0.05  # of the epochs of the training
CURE_RATE: Final = 0.1  # of its learning rate
CURES: Final = 2  # trainings among the cures of a network with noise
TEACHER_SAMPLES: Final = 4
PLAIN: Final = "plain.safetensors"
EXPECTED: Final = "expectation.safetensors"
REESTIMATED: Final = "reestimated.safetensors"
RECORD: Final = "finish.json"
OnEpoch = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Cured:
    """One way to finish, judged on validation images; `loss` is balanced, `calibrated_loss` with the temperature."""

    name: str
    balanced_accuracy: float
    loss: float
    temperature: float
    calibrated_loss: float


def reestimate(network: Network, train: Part, norm: Standard, compute: Compute) -> None:
    """Gather batch-norm statistics anew, in expectation mode, over the unvaried training images.

    Statistics gathered while units are dropped do not fit the network that drops none (Li et al. 2018).
    Every batch counts alike (cumulative mean).
    """
    torch.set_num_threads(compute.threads)
    sample_with(network, None)
    regather(network.to(compute.device), train.images, norm, compute)
    network.cpu().eval()


def cure_recipe(recipe: Recipe) -> Recipe:
    """A short training without noise at a low rate."""
    epochs = max(1, round(CURE_SHARE * recipe.epochs))
    return replace(recipe, epochs=epochs, learning_rate=CURE_RATE * recipe.learning_rate, sampled=False, patience=0)


class SamplingTeacher:
    """Lets a copy of `network` teach by the mean of a few sampled passes; the masks depend on the rows asked for."""

    def __init__(self, network: Network) -> None:
        sample_with(network, None)
        self.network = copy.deepcopy(network).cpu().eval()

    @torch.no_grad()
    def __call__(self, rows: Tensor, x: Tensor) -> Tensor:
        """The logarithm of the mean probabilities (see `factory.training.teaching.Teacher`)."""
        seed, network = zlib.crc32(rows.cpu().numpy().tobytes()), self.network.to(x.device)
        sample_with(network, torch.Generator(x.device).manual_seed(seed))
        total = sum((network(x).float().softmax(1) for _ in range(TEACHER_SAMPLES)), torch.zeros((), device=x.device))
        return (total / TEACHER_SAMPLES).log()

    def __reduce__(self) -> tuple[type["SamplingTeacher"], tuple[Network]]:
        return SamplingTeacher, (self.network.cpu(),)  # "cuda" is another GPU in another process


def _cures(
    network: Network, data: Dataset, norm: Standard, recipe: Recipe, compute: Compute, folder: Path, on_epoch: OnEpoch
) -> Iterator[tuple[str, Network]]:
    """Each way to finish with the network it leaves; trainings go on from their checkpoints in `folder`."""

    def renewed(net: Network) -> Network:
        reestimate(net, data.train, norm, compute)
        return net

    if all(p1 == p2 == 1.0 for p1, p2 in probabilities(network)):
        yield "as trained", network
        yield "re-estimated", renewed(copy.deepcopy(network))
        return
    base = renewed(copy.deepcopy(network))
    yield "re-estimated", base
    gentle, distilled = cure_recipe(recipe), Teaching(SamplingTeacher(network), temperature=1.0, weight=1.0)
    for name, teaching in (("fine-tuned", None), ("distilled", distilled)):
        cured, checkpoint = copy.deepcopy(base), folder / f"{name}.checkpoint"
        fit(cured, data.train, data.val, norm, gentle, compute, checkpoint, on_epoch, teaching)
        yield name, renewed(cured)


def _judge(name: str, network: Network, data: Dataset, norm: Standard, compute: Compute) -> Cured:
    truth, logits = data.val.labels, infer(network, data.val.images, norm, compute).logits
    found = temperature(truth, logits)
    calibrated = balanced_loss(truth, logits / np.float32(found))
    return Cured(name, balanced_accuracy(truth, logits.argmax(1)), balanced_loss(truth, logits), found, calibrated)


@torch.no_grad()
def fold_temperature(network: Network, value: float) -> None:
    """Divide the logits of `network` by `value`, in the weights of its head."""
    network.head.weight.div_(value)
    network.head.bias.div_(value)


@torch.no_grad()
def difference(network: Network, plain: Network, images: NDArray[np.uint8], norm: Standard) -> float:
    """Largest difference of a logit between expectation mode and the collapsed network, in float64, relative."""
    x = norm.apply(to_device(images, "cpu").double() / 255)
    expected = copy.deepcopy(network).double().eval()(x)
    return float((expected - plain.double()(x)).abs().max() / expected.abs().max())


@torch.no_grad()
def ranges(plain: Network, images: NDArray[np.uint8], norm: Standard) -> list[float]:
    """Largest magnitude behind the stem and behind each block of the collapsed network; float16 ends at 65,504."""
    x = plain.stem(norm.apply(to_device(images, "cpu").float() / 255))
    found = [float(x.abs().max())]
    for block in plain.blocks:
        x = block(x)
        found.append(float(x.abs().max()))
    return found


def cure(
    network: Network, data: Dataset, norm: Standard, recipe: Recipe, compute: Compute, folder: Path, on_epoch: OnEpoch
) -> tuple[Cured, Network, list[tuple[Cured, Network]]]:
    """Try every cure; return the best by its calibrated validation loss, with its temperature in its head, and all.

    `on_epoch` is told of every epoch of the cures; their checkpoints lie in `folder`.
    """
    exact = Compute("cpu", "float32", compute.threads)
    tried = [
        (_judge(name, net, data, norm, exact), net)
        for name, net in _cures(network, data, norm, recipe, compute, folder, on_epoch)
    ]
    chosen, best = min(tried, key=lambda pair: pair[0].calibrated_loss)
    best = copy.deepcopy(best)
    fold_temperature(best, chosen.temperature)
    return chosen, best, tried


def finish(
    network: Network, data: Dataset, norm: Standard, recipe: Recipe, compute: Compute, folder: Path, on_epoch: OnEpoch
) -> None:
    """Write reestimated, expectation and plain .safetensors (float32) and finish.json into `folder`.

    `expectation` is the best cure, which was collapsed into `plain`.

    Raises:
        GateError: if the collapsed network does not compute what its expectation does.
    """
    trained = _judge("as trained", network, data, norm, Compute("cpu", "float32", compute.threads))
    chosen, best, tried = cure(network, data, norm, recipe, compute, folder, on_epoch)
    plain = collapse(best)
    images = data.val.images[:64]
    error = difference(best, plain, images, norm)
    if not error < TOLERANCE:
        raise GateError("the collapse is not exact", expected=f"below {TOLERANCE:g}", found=f"{error:.2g}")
    plain = plain.float()
    reestimated = next(net for cured, net in tried if cured.name == "re-estimated")
    for name, net in ((REESTIMATED, reestimated), (EXPECTED, best), (PLAIN, plain)):
        save_weights(folder / name, net, {})
    document: dict[str, Any] = {
        "difference": error,
        "trained": asdict(trained),
        "cures": [asdict(cured) for cured, _ in tried],
        "chosen": chosen.name,
        "ranges": ranges(plain, images, norm),
    }
    write_json(folder / RECORD, document)
    for checkpoint in folder.glob("*.checkpoint"):
        checkpoint.unlink()


def finished(folder: Path) -> Cured:
    """How the network that `finish` left does on validation images."""
    document = read_json(folder / RECORD)
    return Cured(**next(cured for cured in document["cures"] if cured["name"] == document["chosen"]))


def load_with(network: Network, path: Path) -> Network:
    """Load into `network` (with Swapout) the weights of `path`, one of those `finish` wrote."""
    network.load_state_dict(read_tensors(path)[0])
    return network.eval()


def load_plain(plan: Plan, folder: Path) -> Network:
    """Rebuild the collapsed network in float32."""
    return load_with(build(plan, norm=False), folder / PLAIN)
