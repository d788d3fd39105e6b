import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.runtime.errors import GateError
from factory.data.dataset import Dataset
from factory.spaces.plan import Plan
from factory.swapout.collapse import collapse
from factory.swapout.layer import sample_with
from factory.swapout.network import Network
from factory.training import statistics as gathering
from factory.training.compute import Compute
from factory.training.finish import difference, finish, load_expectation, load_plain, reestimate
from factory.training.metrics import balanced_accuracy, balanced_loss
from factory.training.pictures import Standard, predict, standard
from factory.workspace import read_json

Fresh = Callable[..., Network]
DataOf = Callable[..., Dataset]
EXACT = Compute("cpu", "float32", 1)


class ByHand(nn.Module):
    """Batch normalisation from its definition, noting the mean and the unbiased variance of every batch."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm
        self.means: list[np.ndarray] = []
        self.variances: list[np.ndarray] = []

    def forward(self, x: Tensor) -> Tensor:
        rows = x.detach().permute(1, 0, 2, 3).flatten(1).numpy()
        self.means.append(rows.mean(1))
        self.variances.append(rows.var(1, ddof=1))
        mean, spread = (torch.from_numpy(v)[None, :, None, None] for v in (rows.mean(1), rows.std(1)))
        scaled = (x - mean) / torch.sqrt(spread**2 + self.norm.eps)
        return scaled * self.norm.weight[None, :, None, None] + self.norm.bias[None, :, None, None]


def statistics(network: Network, batches: list[Tensor]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of what each batch-norm reads, in expectation mode, averaged over the batches."""
    network = copy.deepcopy(network).double()
    sample_with(network, None)
    found = {name: ByHand(m) for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, module in found.items():
        network.set_submodule(name, module)
    with torch.no_grad():
        for batch in batches:
            network(batch)
    return {name: (np.mean(m.means, 0), np.mean(m.variances, 0)) for name, m in found.items()}


@pytest.mark.parametrize("batch", [256, 16])
def test_statistics_are_those_of_the_training_images_in_expectation_mode(
    batch: int, fresh: Fresh, data_of: DataOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "BATCH", batch)
    network, train = fresh(), data_of().train
    norm = standard(train.images)
    sample_with(network, torch.Generator().manual_seed(0))
    network.train()(torch.randn(8, 1, 24, 24))  # statistics of a noisy training, to be forgotten
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    pixels = norm.apply(torch.from_numpy(train.images).permute(0, 3, 1, 2).double() / 255)
    wanted = statistics(network, list(pixels[order].split(min(batch, 48))))
    weights = {name: p.clone() for name, p in network.named_parameters()}
    reestimate(network, train, norm, EXACT)
    norms = {name: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms.keys() == wanted.keys()
    for name, module in norms.items():
        mean, variance = wanted[name]
        np.testing.assert_allclose(module.running_mean, mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(module.running_var, variance, rtol=1e-3, atol=1e-4)
        assert module.momentum == 0.1 and not module.training
    assert all(torch.equal(p, weights[name]) for name, p in network.named_parameters())


def noisy(network: Network, data: Dataset) -> Network:
    """A network whose statistics were gathered while units were dropped."""
    sample_with(network, torch.Generator().manual_seed(0))
    x = standard(data.train.images).apply(torch.from_numpy(data.train.images).permute(0, 3, 1, 2) / 255)
    network.train()
    with torch.no_grad():
        for _ in range(30):
            network(x)
    sample_with(network, None)
    return network.eval()


def test_the_finish_leaves_the_plain_network_of_the_expectation_and_its_figures(
    fresh: Fresh, shape: Plan, data_of: DataOf, tmp_path: Path
) -> None:
    data = data_of()
    norm = standard(data.train.images)
    network = noisy(fresh(), data)
    before = predict(network, data.val.images, norm, EXACT)
    finish(network, data, norm, EXACT, tmp_path)
    names = ["expectation.safetensors", "finish.json", "plain.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    plain, expectation = load_plain(shape, tmp_path), load_expectation(fresh(seed=4), tmp_path)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    after, expected = (predict(net, data.val.images, norm, EXACT) for net in (plain, expectation))
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(after - before).max() > 1e-3  # the statistics were not the right ones
    record, truth = read_json(tmp_path / "finish.json"), data.val.labels
    assert record["difference"] < 1e-10
    assert record["trained"] == pytest.approx(
        [balanced_accuracy(truth, before.argmax(1)), balanced_loss(truth, before)]
    )
    assert record["finished"] == pytest.approx([balanced_accuracy(truth, after.argmax(1)), balanced_loss(truth, after)])


def test_the_finish_is_the_same_every_time(fresh: Fresh, data_of: DataOf, tmp_path: Path) -> None:
    data = data_of()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        finish(noisy(fresh(), data), data, standard(data.train.images), EXACT, tmp_path / name)
        torch.manual_seed(5)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_the_difference_tells_a_network_that_is_not_the_collapsed_one(fresh: Fresh, data_of: DataOf) -> None:
    data, norm = data_of(), Standard((0.3,), (0.2,))
    network = noisy(fresh(), data)
    plain = collapse(network)
    assert difference(network, plain, data.val.images, norm) < 1e-10
    with torch.no_grad():
        plain.head.bias += 1e-6
    assert difference(network, plain, data.val.images, norm) > 1e-8


def test_a_collapse_that_is_not_exact_is_a_gate_and_leaves_nothing(
    fresh: Fresh, data_of: DataOf, tmp_path: Path
) -> None:
    data = data_of()
    network = noisy(fresh(), data)
    with torch.no_grad():
        network.head.weight[0, 0] = float("nan")
    with pytest.raises(GateError, match="the collapse is not exact: expected below 1e-10, found nan"):
        finish(network, data, standard(data.train.images), EXACT, tmp_path)
    assert list(tmp_path.iterdir()) == []
