import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from factory.data.dataset import Dataset
from factory.profiles import LineProfile
from factory.swapout.collapse import collapse
from factory.swapout.layer import sample_with
from factory.swapout.network import Network
from factory.training.compute import Compute
from factory.training.metrics import calibration_error, operating_threshold
from factory.training.modes import (
    FINISHED,
    GAPS,
    PLAIN,
    REESTIMATED,
    SAMPLED,
    SAMPLES,
    TRAINED,
    Asked,
    Mode,
    ask,
    compare,
    compare_modes,
    cost,
    five,
    gap,
)
from factory.training.pictures import Standard, predict

Fresh = Callable[..., Network]
DataOf = Callable[..., Dataset]
LineOf = Callable[..., LineProfile]
EXACT = Compute("cpu", "float32", 1)
NORM = Standard((0.3,), (0.2,))


def sure(network: Network) -> Network:
    """Fresh weights make logits next to zero, on which all passes agree."""
    with torch.no_grad():
        network.head.weight.mul_(30)
    return network.eval()


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """From its definition, in float64."""
    powers = np.exp(logits.astype(np.float64))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def random(rng: np.random.Generator, truth: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Logits that are often right."""
    logits = rng.normal(size=(len(truth), classes)).astype(np.float32)
    logits[np.arange(len(truth)), truth] += 1
    return logits


def balanced(values: NDArray[Any], truth: NDArray[np.int64]) -> float:
    return float(np.mean([values[truth == label].mean() for label in np.unique(truth)]))


def written(line: LineProfile, data: Dataset, asked: dict[str, Asked], path: Path, *gaps: tuple[str, str]) -> Any:
    compare(line, data, asked, gaps, path)
    return json.loads(path.read_text())


def test_five_modes_of_which_one_is_sampled_and_the_rest_asked_once(fresh: Fresh) -> None:
    nets = [fresh(seed=seed) for seed in range(4)]
    found = five(*nets)
    assert list(found) == [PLAIN, TRAINED, REESTIMATED, FINISHED, SAMPLED]
    assert [mode.network for mode in found.values()] == [*nets, nets[1]]
    assert [mode.samples for mode in found.values()] == [None, None, None, None, 30]
    assert {name for pair in GAPS for name in pair} <= set(found)


def test_the_sampled_mode_is_the_mean_of_thirty_passes(fresh: Fresh, data_of: DataOf) -> None:
    data, network = data_of(val=12, test=20), sure(fresh())
    asked = ask(Mode(network, SAMPLES), data, NORM, EXACT)
    sample_with(network, torch.Generator().manual_seed(0))
    passes = np.array([softmax(predict(network, data.test.images, NORM, EXACT)) for _ in range(30)])
    sample_with(network, None)
    np.testing.assert_allclose(softmax(asked.test), passes.mean(0), rtol=1e-5)
    assert np.abs(passes[:29].mean(0) - passes.mean(0)).max() > 1e-4  # so that one pass fewer would be seen
    once = ask(Mode(network), data, NORM, EXACT)
    np.testing.assert_array_equal(once.test, predict(network, data.test.images, NORM, EXACT))
    np.testing.assert_array_equal(once.val, predict(network, data.val.images, NORM, EXACT))
    assert asked.ms > once.ms > 0


def test_a_row_is_what_its_definitions_say(line_of: LineOf, data_of: DataOf, tmp_path: Path) -> None:
    line, data, rng = line_of(acceptance={"escape_max": 0.3}), data_of(val=60, test=75), np.random.default_rng(0)
    val, test = (random(rng, part.labels, 2) for part in (data.val, data.test))
    (row,) = written(line, data, {"a": Asked(val, test, 1.5)}, tmp_path / "rows.json")["rows"]
    truth, scores = data.test.labels, softmax(test)
    right = scores.argmax(1) == truth
    assert row["accuracy"]["value"] == pytest.approx(right.mean())
    assert row["balanced_accuracy"]["value"] == pytest.approx(balanced(right, truth))
    assert row["loss"]["value"] == pytest.approx(balanced(-np.log(scores[np.arange(75), truth]), truth), rel=1e-6)
    assert row["calibration_error"] == pytest.approx(calibration_error(truth, test))
    threshold = operating_threshold(data.val.labels, 1 - softmax(val)[:, 0], 0, 0.3)
    rejected = 1 - scores[:, 0] >= threshold
    assert row["escape"]["value"] == pytest.approx((~rejected[truth == 1]).mean())
    assert row["overkill"]["value"] == pytest.approx(rejected[truth == 0].mean())
    assert 0 < row["escape"]["value"] < 1 and 0 < row["overkill"]["value"] < 1
    assert (row["name"], row["ms"]) == ("a", 1.5)
    for name in ("accuracy", "balanced_accuracy", "loss", "escape", "overkill"):
        assert row[name]["low"] < row[name]["value"] < row[name]["high"]


def test_a_sorting_line_has_no_escape_and_each_mode_has_a_threshold_of_its_own(
    line_of: LineOf, data_of: DataOf, tmp_path: Path
) -> None:
    data, rng = data_of(val=60, test=60), np.random.default_rng(0)
    val, test = (random(rng, part.labels, 2) for part in (data.val, data.test))
    shifted = np.array([2.0, 0.0], np.float32)  # moves scores and threshold alike, so that decisions stay
    asked = {"a": Asked(val, test, 1.0), "b": Asked(val + shifted, test + shifted, 1.0)}
    one, other = written(line_of(), data, asked, tmp_path / "rows.json")["rows"]
    assert (one["escape"], one["overkill"]) == (other["escape"], other["overkill"])
    assert one["balanced_accuracy"] != other["balanced_accuracy"]
    sorting = line_of(classes={"good": None})
    three = data_of(val=60, test=60)
    three = Dataset(three.labels, None, three.train, three.val, three.test)
    (row,) = written(sorting, three, {"a": asked["a"]}, tmp_path / "sorting.json")["rows"]
    assert row["escape"] is None and row["overkill"] is None


def test_gaps_are_differences_image_by_image() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2
    one = random(rng, truth, 2)
    alike = one + rng.normal(0, 0.01, one.shape).astype(np.float32)
    apart = random(rng, truth, 2)
    for other in (alike, apart):
        found = gap("a", "b", truth, one, other)
        rights = [(softmax(own).argmax(1) == truth).astype(float) for own in (one, other)]
        losses = [-np.log(softmax(own)[np.arange(400), truth]) for own in (one, other)]
        for estimate, (own, over) in ((found.balanced_accuracy, rights), (found.loss, losses)):
            assert estimate.value == pytest.approx(balanced(own, truth) - balanced(over, truth), abs=1e-6)
            spread = np.sqrt(sum((own - over)[truth == k].var() / 200 for k in (0, 1)) / 4)
            assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * spread, rel=0.15, abs=1 / 400)
    near, far = gap("a", "b", truth, one, alike), gap("a", "b", truth, one, apart)
    assert near.loss.high - near.loss.low < (far.loss.high - far.loss.low) / 20  # unpaired, both would be as wide
    swapped = gap("b", "a", truth, apart, one)
    assert swapped.loss.value == pytest.approx(-far.loss.value)
    assert (swapped.name, swapped.over) == ("b", "a")


def test_modes_are_written_with_their_logits_and_one_tick_each(
    fresh: Fresh, data_of: DataOf, line_of: LineOf, tmp_path: Path
) -> None:
    data, noisy = data_of(val=12, test=16), sure(fresh())
    nets = sure(fresh(swapout=False, seed=1)), noisy, sure(fresh(seed=2)), collapse(noisy).float()
    ticks: list[None] = []
    asked = five(*nets)
    compare_modes(line_of(), data, asked, NORM, EXACT, tmp_path, lambda: ticks.append(None))
    document, logits = json.loads((tmp_path / "modes.json").read_text()), np.load(tmp_path / "logits.npy")
    assert len(ticks) == 5
    assert [row["name"] for row in document["rows"]] == list(asked)
    assert logits.dtype == np.float32 and logits.shape == (5, 16, 2)
    for name, own, row in zip(asked, logits, document["rows"], strict=True):
        right = own.argmax(1) == data.test.labels
        assert row["balanced_accuracy"]["value"] == pytest.approx(balanced(right, data.test.labels)), name
    np.testing.assert_allclose(logits[3], logits[1], rtol=1e-4, atol=1e-5)  # the collapse of what was trained
    assert np.abs(logits[4] - logits[1]).max() > 1e-3
    assert [(row["name"], row["over"]) for row in document["gaps"]] == list(GAPS)
    losses = {row["name"]: row["loss"]["value"] for row in document["rows"]}
    for row in document["gaps"]:
        assert row["loss"]["value"] == pytest.approx(losses[row["name"]] - losses[row["over"]], abs=1e-6)


def test_a_cost_counts_images_and_leaves_the_first_call_out() -> None:
    calls: list[None] = []
    assert cost(lambda: calls.append(None), 10) >= 0
    assert len(calls) == 6
