import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.runtime.errors import UsageError
from factory.data.dataset import Dataset
from factory.profiles import Augmentation, InputSize
from factory.swapout.layer import sample_with
from factory.swapout.network import Network
from factory.training.compute import Compute
from factory.training.loop import fit
from factory.training.pictures import Standard, predict, standard
from factory.training.program import opened
from factory.training.recipe import Recipe
from factory.training.teacher import (
    Tried,
    answer,
    answers,
    choose,
    load_answers,
    of_network,
    sampled,
    symmetries,
    together,
)
from factory.training.teaching import Teaching, fixed

EXACT = Compute("cpu", "float32", 1)
NORM = Standard((0.3,), (0.2,))
STILL = Augmentation(shift=0, brightness=0, contrast=0, noise=0)
SIZE = InputSize(height=24, width=24, channels=1)

Fresh = Callable[..., Network]
DataOf = Callable[..., Dataset]
RecipeOf = Callable[..., Recipe]


def turning(**declared: bool) -> Augmentation:
    return Augmentation(**declared)  # type: ignore[arg-type]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """From its definition, in float64."""
    powers = np.exp(logits.astype(np.float64))
    return np.asarray(powers / powers.sum(1, keepdims=True))


# what the augmentation declares true


@pytest.mark.parametrize(
    ("declared", "square", "views"),
    [
        ({}, True, 1),
        ({"flip_horizontal": True}, True, 2),
        ({"flip_vertical": True}, False, 2),
        ({"flip_horizontal": True, "flip_vertical": True}, True, 4),
        ({"quarter_turns": True}, True, 4),
        ({"quarter_turns": True}, False, 2),
        ({"flip_horizontal": True, "quarter_turns": True}, True, 8),
        ({"flip_horizontal": True, "quarter_turns": True}, False, 4),
        ({"flip_horizontal": True, "flip_vertical": True, "quarter_turns": True}, True, 8),
        ({"flip_horizontal": True, "flip_vertical": True, "quarter_turns": True}, False, 4),
    ],
)
def test_the_views_are_the_whole_group_of_declared_moves_each_once(
    declared: dict[str, bool], square: bool, views: int
) -> None:
    x = torch.arange(12.0 if not square else 9.0).reshape(1, 1, 3, -1)
    augmentation = turning(**declared)
    seen = {tuple(view(x).flatten().tolist()) for view in symmetries(augmentation, square)}
    assert len(seen) == len(symmetries(augmentation, square)) == views
    assert tuple(x.flatten().tolist()) == tuple(symmetries(augmentation, square)[0](x).flatten().tolist())
    for one in symmetries(augmentation, square):  # closed: a view of a view is a view
        assert {tuple(two(one(x)).flatten().tolist()) for two in symmetries(augmentation, square)} == seen


def test_answers_are_the_mean_probability_over_the_views(fresh: Fresh, data_of: DataOf) -> None:
    network, images = fresh(), data_of(test=130).test.images
    torch.nn.init.normal_(network.head.weight, std=20.0, generator=torch.Generator().manual_seed(0))
    found = answers(of_network(network, NORM, EXACT), images, turning(flip_horizontal=True), EXACT)
    flipped = np.ascontiguousarray(images[:, :, ::-1])
    wanted = (softmax(predict(network, images, NORM, EXACT)) + softmax(predict(network, flipped, NORM, EXACT))) / 2
    assert found.dtype == np.float32 and found.shape == (130, 2)
    np.testing.assert_allclose(softmax(found), wanted, atol=1e-6)
    assert np.abs(softmax(predict(network, images, NORM, EXACT)) - wanted).max() > 1e-3


def test_answers_are_kept_and_read_back_by_name(tmp_path: Path, fresh: Fresh, data_of: DataOf) -> None:
    data, expert = data_of(train=20, val=10), of_network(fresh(), NORM, EXACT)
    answer(expert, {"train": data.train.images, "val": data.val.images}, STILL, EXACT, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.npy", "val.npy"]
    np.testing.assert_array_equal(load_answers(tmp_path, "val"), answers(expert, data.val.images, STILL, EXACT))


# ensembles


def test_several_networks_together_answer_with_their_mean_probability(fresh: Fresh, data_of: DataOf) -> None:
    networks, images = [fresh(seed=seed) for seed in range(3)], data_of().test.images
    found = answers(together([of_network(network, NORM, EXACT) for network in networks]), images, STILL, EXACT)
    wanted = np.mean([softmax(predict(network, images, NORM, EXACT)) for network in networks], axis=0)
    np.testing.assert_allclose(np.exp(found), wanted, atol=1e-6)


def test_certain_answers_stay_finite() -> None:
    sure: list[Callable[[Tensor], Tensor]] = [
        lambda _: torch.tensor([[500.0, 0.0]]),
        lambda _: torch.tensor([[0.0, 0.0]]),
    ]
    torch.testing.assert_close(together(sure)(torch.zeros(1)).exp(), torch.tensor([[0.75, 0.25]]))


def test_the_samples_of_a_swapout_network_average_to_what_each_alone_gives(fresh: Fresh, data_of: DataOf) -> None:
    network = fresh()
    x = torch.from_numpy(data_of().test.images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        found = sampled(network, NORM, EXACT, passes=4, seed=7)(x)
        again = sampled(network, NORM, EXACT, passes=4, seed=7)(x)
        other = sampled(network, NORM, EXACT, passes=4, seed=8)(x)
        expected = network(NORM.apply(x))  # the layers are back in expectation
        generator = torch.Generator().manual_seed(7)
        sample_with(network, generator)
        each = [network(NORM.apply(x)).softmax(1) for _ in range(4)]
        sample_with(network, None)
        torch.testing.assert_close(found.exp(), torch.stack(each).mean(0))
        assert torch.equal(found, again) and not torch.equal(found, other)
        assert not torch.equal(each[0], each[1])
        assert torch.equal(expected, network(NORM.apply(x)))


# learning from them


def divergence(one: NDArray[np.float32], two: NDArray[np.float32]) -> float:
    p, q = softmax(one), softmax(two)
    return float((p * np.log(p / q)).sum(1).mean())


def test_a_student_that_only_listens_moves_to_its_teacher_against_the_labels(
    tmp_path: Path, fresh: Fresh, data_of: DataOf, recipe_of: RecipeOf
) -> None:
    data = data_of(train=96)
    norm = standard(data.train.images)
    val = replace(data.val, labels=1 - data.val.labels)  # by which the best weights are kept
    wrong = np.where(data.train.labels[:, None] == np.arange(2), -1.0, 1.0).astype(np.float32)
    recipe = recipe_of(epochs=16, augmentation=STILL)
    apart = []
    for weight in (0.0, 1.0):
        network = fresh(swapout=False)
        teaching = Teaching(fixed(wrong, "cpu"), 2.0, weight)
        fit(network, data.train, val, norm, recipe, EXACT, tmp_path / f"{weight}", lambda _: None, teaching)
        apart.append(divergence(wrong, predict(network, data.train.images, norm, EXACT)))
    before = divergence(wrong, predict(fresh(swapout=False), data.train.images, norm, EXACT))
    assert apart[1] < 0.1 * before < apart[0]


# what the user brings


class Brought(nn.Module):
    """Normalises for itself, as the contract says."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.chain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, classes, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.chain((x - 0.5) / 0.25).mean((2, 3))
        return logits


def written(path: Path, network: nn.Module, shape: tuple[int, ...] = (2, 1, 24, 24), *, any_batch: bool = True) -> Path:
    shapes = ({0: torch.export.Dim("batch")},) if any_batch else None
    program = torch.export.export(network.eval(), (torch.zeros(shape),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def test_a_program_of_the_user_answers_as_the_network_it_was_made_of(tmp_path: Path, data_of: DataOf) -> None:
    torch.manual_seed(0)
    network, images = Brought(), data_of(test=70).test.images
    found = answers(opened(written(tmp_path / "t.pt2", network), SIZE, 2, EXACT), images, STILL, EXACT)
    with torch.no_grad():
        wanted = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).softmax(1)
    np.testing.assert_allclose(np.exp(found), wanted, atol=1e-6)


@pytest.mark.parametrize("kind", ["classes", "size", "one batch", "weights", "text", "absent"])
def test_a_file_that_is_no_such_teacher_gets_one_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t.pt2"
    size, message = SIZE, "does not answer as it must: expected (3, 2) logits of three pictures 1 x 24 x 24"
    if kind == "classes":
        written(path, Brought(classes=3))
        message += ", found (3, 3)"
    elif kind == "size":
        size, message = SIZE.model_copy(update={"height": 32}), message.replace("x 24 x", "x 32 x")
        written(path, Brought())
    elif kind == "one batch":
        written(path, Brought(), any_batch=False)
    else:
        message = "is not a torch.export program that loads without unpickling"
        if kind == "weights":
            torch.save(Brought().state_dict(), path)
        elif kind == "text":
            path.write_text("a teacher")
    with pytest.raises(UsageError) as caught:
        opened(path, size, 2, EXACT)
    assert message in str(caught.value) and "torch.export.save" in str(caught.value)


class Trap:
    """Leaves a mark if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.mark,)


def pickled(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save((Trap(mark),), buffer)
    return buffer.getvalue()


def rewritten(path: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes]) -> None:
    """Write the records of an archive anew, each through `change`, with further ones beside them."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(records)).split("/")[0]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))
        for name, data in extra.items():
            archive.writestr(f"{root}/{name}", data)


@pytest.mark.parametrize("where", ["inputs", "weight", "constant", "older weights", "compiled"])
def test_no_pickle_of_a_program_is_ever_run(tmp_path: Path, where: str) -> None:
    path, mark = written(tmp_path / "t.pt2", Brought()), tmp_path / "mark"
    trap, extra = pickled(mark), {}

    def change(name: str, data: bytes) -> bytes:
        if where == "inputs" and "sample_inputs" in name:
            return trap
        if where == "weight" and name.endswith("weights_config.json"):
            config = json.loads(data)
            config["config"]["chain.0.weight"] |= {"use_pickle": True, "path_name": "weight_99"}
            return json.dumps(config).encode()
        if where == "constant" and name.endswith("constants_config.json"):
            meta = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
            return json.dumps({"config": {"c": meta}}).encode()
        return data

    if where == "weight":
        extra = {"data/weights/weight_99": trap}
    elif where == "constant":
        extra = {"data/constants/opaque_obj_0": trap}
    elif where == "older weights":
        extra = {"data/weights/model.pt": trap}
    elif where == "compiled":
        extra = {"data/aotinductor/model/model.so": b"\x7fELF"}
    rewritten(path, change, extra)
    with pytest.raises(UsageError, match=r"without unpickling|holds pickles or compiled code"):
        opened(path, SIZE, 2, EXACT)
    assert not mark.exists()
    if where in ("inputs", "weight", "older weights"):  # the trap is real: the library itself walks into it
        with pytest.raises(Exception):  # noqa: B017, PT011
            torch.export.load(path)
        assert mark.exists()


# how far to follow


def test_the_best_way_of_teaching_is_the_one_of_least_loss_and_all_are_told() -> None:
    losses = {(1.0, 0.5): 0.45, (1.0, 0.9): 0.6, (2.0, 0.5): 0.4, (2.0, 0.9): 0.41}
    best, tried = choose(lambda temperature, weight: losses[temperature, weight], (1.0, 2.0), (0.5, 0.9))
    assert best == Tried(2.0, 0.5, 0.4)
    assert [(t.temperature, t.weight) for t in tried] == list(losses)
    assert [t.val_loss for t in tried] == list(losses.values())
