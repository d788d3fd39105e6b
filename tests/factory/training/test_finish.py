import copy
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

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
from factory.training.finish import (
    EXPECTED,
    REESTIMATED,
    TEACHER_SAMPLES,
    SamplingTeacher,
    cure,
    difference,
    finish,
    finished,
    load_plain,
    load_with,
    ranges,
    reestimate,
)
from factory.training.loop import fit
from factory.training.metrics import balanced_accuracy, balanced_loss
from factory.training.pictures import Standard, predict, standard
from factory.training.recipe import Recipe
from factory.workspace import read_json

Fresh = Callable[..., Network]
Recipes = Callable[..., Recipe]
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


def quick(recipe_of: Recipes) -> Recipe:
    """A recipe whose cures are one epoch each."""
    return recipe_of(epochs=4, learning_rate=0.05)


def nothing(_: object) -> None:
    pass


def test_the_finish_leaves_the_plain_network_of_its_best_cure(
    fresh: Fresh, shape: Plan, data_of: DataOf, recipe_of: Recipes, tmp_path: Path
) -> None:
    data, recipe = data_of(), quick(recipe_of)
    norm, truth = standard(data.train.images), data.val.labels
    network = noisy(fresh(), data)
    before = predict(network, data.val.images, norm, EXACT)
    finish(network, data, norm, recipe, EXACT, tmp_path, nothing)
    names = ["expectation.safetensors", "finish.json", "plain.safetensors", "reestimated.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    np.testing.assert_array_equal(predict(network, data.val.images, norm, EXACT), before)  # left as it was
    plain, best = load_plain(shape, tmp_path), load_with(fresh(seed=4), tmp_path / EXPECTED)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    after, expected = (predict(net, data.val.images, norm, EXACT) for net in (plain, best))
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)
    record = read_json(tmp_path / "finish.json")
    assert record["difference"] < 1e-10
    assert record["trained"]["loss"] == pytest.approx(balanced_loss(truth, before))
    assert [cured["name"] for cured in record["cures"]] == ["re-estimated", "fine-tuned", "distilled"]
    left = finished(tmp_path)
    assert left.name == record["chosen"]
    assert left.calibrated_loss == min(cured["calibrated_loss"] for cured in record["cures"])
    # the delivered network says what was judged, temperature and all
    assert balanced_loss(truth, after) == pytest.approx(left.calibrated_loss, rel=1e-4)
    assert balanced_accuracy(truth, after.argmax(1)) == pytest.approx(left.balanced_accuracy)
    reestimated = load_with(fresh(seed=4), tmp_path / REESTIMATED)
    own = balanced_loss(truth, predict(reestimated, data.val.images, norm, EXACT))
    assert own == pytest.approx(record["cures"][0]["loss"])
    assert abs(own - record["trained"]["loss"]) > 1e-4  # the statistics were not the right ones


def test_a_network_without_noise_is_left_as_trained_or_has_its_statistics_renewed(
    fresh: Fresh, data_of: DataOf, recipe_of: Recipes, tmp_path: Path
) -> None:
    data = data_of()
    network = noisy(fresh(swapout=False), data)
    trained = {name: p.clone() for name, p in network.named_parameters()}
    finish(network, data, standard(data.train.images), quick(recipe_of), EXACT, tmp_path, nothing)
    record = read_json(tmp_path / "finish.json")
    assert [cured["name"] for cured in record["cures"]] == ["as trained", "re-estimated"]
    left = load_with(fresh(swapout=False), tmp_path / EXPECTED)
    for name, p in left.named_parameters():
        scale = finished(tmp_path).temperature if name.startswith("head") else 1.0
        torch.testing.assert_close(p, trained[name] / scale)


def test_the_cures_help_a_network_trained_under_noise(fresh: Fresh, data_of: DataOf, recipe_of: Recipes) -> None:
    data, recipe = data_of(train=96, val=48), recipe_of(epochs=12)
    norm, network = standard(data.train.images), fresh()
    with TemporaryDirectory() as place:
        folder = Path(place)
        fit(network, data.train, data.val, norm, recipe, EXACT, folder / "fit", nothing)
        chosen, best, tried = cure(network, data, norm, recipe, EXACT, folder, nothing)
    trained = balanced_loss(data.val.labels, predict(network, data.val.images, norm, EXACT))
    cured = balanced_loss(data.val.labels, predict(best, data.val.images, norm, EXACT))
    assert cured == pytest.approx(chosen.calibrated_loss, rel=1e-4)
    assert cured < trained
    assert len(tried) == 3


def test_the_sampling_teacher_is_the_mean_of_passes_and_a_function_of_the_rows(fresh: Fresh) -> None:
    network = fresh()
    x, rows = torch.randn(6, 1, 24, 24, generator=torch.Generator().manual_seed(2)), torch.arange(6)
    teacher = SamplingTeacher(network)
    one, two, other = teacher(rows, x), teacher(rows, x), teacher(rows + 1, x)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    torch.testing.assert_close(one.exp().sum(1), torch.ones(6))
    sample_with(network.eval(), torch.Generator().manual_seed(zlib.crc32(rows.numpy().tobytes())))
    with torch.no_grad():
        passes = torch.stack([network(x).softmax(1) for _ in range(TEACHER_SAMPLES)])
    torch.testing.assert_close(one.exp(), passes.mean(0))
    sent = pickle.loads(pickle.dumps(teacher))  # noqa: S301 - to another process
    assert torch.equal(sent(rows, x), one)


def test_the_ranges_are_the_largest_values_behind_each_block(fresh: Fresh, data_of: DataOf) -> None:
    data, norm = data_of(), Standard((0.3,), (0.2,))
    plain = collapse(noisy(fresh(), data)).float()
    seen: list[float] = []
    for module in (plain.stem, *plain.blocks):
        module.register_forward_hook(lambda *given: seen.append(float(given[2].abs().max())))
    found = ranges(plain, data.val.images, norm)
    assert found == pytest.approx(seen)
    assert len(found) == 1 + len(plain.blocks)


def test_the_finish_is_the_same_every_time_and_after_a_kill(
    fresh: Fresh, data_of: DataOf, recipe_of: Recipes, tmp_path: Path
) -> None:
    data, recipe = data_of(), recipe_of(epochs=40, learning_rate=0.05)  # two epochs a cure
    norm = standard(data.train.images)

    class KilledError(Exception):
        pass

    def kill_at(number: int) -> Callable[[object], None]:
        left = iter(range(number))

        def on_epoch(_: object) -> None:
            if next(left, None) is None:
                raise KilledError

        return on_epoch

    for name, kills in (("one", ()), ("two", (0, 1, 2))):
        (tmp_path / name).mkdir()
        for number in kills:
            with pytest.raises(KilledError):
                finish(noisy(fresh(), data), data, norm, recipe, EXACT, tmp_path / name, kill_at(number))
        finish(noisy(fresh(), data), data, norm, recipe, EXACT, tmp_path / name, nothing)
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
    fresh: Fresh, data_of: DataOf, recipe_of: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of()

    def spoilt(network: Network) -> Network:
        plain = collapse(network)
        with torch.no_grad():
            plain.head.bias += 1e-6
        return plain

    monkeypatch.setattr("factory.training.finish.collapse", spoilt)
    network = noisy(fresh(swapout=False), data)
    with pytest.raises(GateError, match="the collapse is not exact: expected below 1e-10, found"):
        finish(network, data, standard(data.train.images), quick(recipe_of), EXACT, tmp_path, nothing)
    assert list(tmp_path.iterdir()) == []
