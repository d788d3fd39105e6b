import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from export.runtime.errors import UsageError
from factory.data.dataset import Dataset
from factory.engine import Engine, Serial
from factory.engine.processes import Processes
from factory.evidence.pilot import (
    ANSWERS,
    KEPT,
    PLAIN,
    SEARCHED,
    Attempt,
    Verdict,
    arms,
    part_images,
    pilot,
    recommend,
    trainings,
)
from factory.profiles import Augmentation, SwapoutSettings
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan
from factory.training.compute import Compute
from factory.training.metrics import Estimate
from factory.training.pictures import standard
from factory.training.recipe import Recipe

DataOf = Callable[..., Dataset]
T = TypeVar("T")
R = TypeVar("R")

SHAPE = plan(parse("stem_w8_s4-basic_w8_d2_k3_e1_s1-basic_w16_d2_k3_e1_s1"), Input(24, 24, 1), 2)
RECIPE = Recipe(1, 16, 0.1, 5e-4, 0.0, True, Augmentation(), 0)
TRIED = (PLAIN, "Swapout, 1 to 0.8", "dropout, 1 to 0.8", "stochastic depth, 1 to 0.8", "SkipForward, 0.9 to 0.5")
SEEDS = 2
TOTAL = 5 + SEEDS * (1 + KEPT)


class Told:
    """The serial engine, with a list of what it was asked."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def map(self, task: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        self.items += items
        return Serial().map(task, items)


def run(attempt: Attempt, folder: Path, engine: Engine, tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
    pilot("tiny", "a genome", attempt, SEEDS, engine, folder, tick)
    document: dict[str, Any] = json.loads((folder / "pilot.json").read_text())
    return document


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    judged = [{name: value for name, value in row.items() if name != "seconds"} for row in document["judged"]]
    sentence = re.sub(r"[\d.]+ times the training time", "", document["sentence"])
    return {**document, "judged": judged, "sentence": sentence, "seconds": None}


@pytest.fixture(scope="module")
def attempt(data_of: DataOf) -> Attempt:
    data, found = data_of(train=48, val=16, test=40), arms(SHAPE.stages, 0)
    some = {name: found[name] for name in TRIED}
    return Attempt(SHAPE, some, data, standard(data.train.images), RECIPE, Compute("cpu", "float32", 1))


@pytest.fixture(scope="module")
def piloted(attempt: Attempt, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[int]]:
    """A whole pilot: its folder, its document, and how many answers lay on disk at each tick."""
    folder, kept = tmp_path_factory.mktemp("pilot"), list[int]()
    document = run(attempt, folder, Serial(), lambda: kept.append(len(json.loads((folder / ANSWERS).read_text()))))
    return folder, document, kept


# arms


@pytest.mark.parametrize("stages", [(0,), (0, 0, 1, 2), (1, 3)])
def test_arms_are_the_plain_network_and_distinct_noises_that_the_network_can_be_built_with(
    stages: tuple[int, ...],
) -> None:
    for seed in range(100):
        found = arms(stages, seed)
        assert len(found) == 7 + SEARCHED
        assert next(iter(found)) == PLAIN
        assert [name for name, own in found.items() if own.noise.silent] == [PLAIN]
        assert len({repr(own.noise) for own in found.values()}) == len(found)
        for own in found.values():
            assert all(0 <= p <= 1 for pair in own.noise.probabilities(stages) for p in pair)
            dumped = json.dumps(own.model_dump(mode="json", exclude_none=True))
            assert SwapoutSettings.model_validate_json(dumped).noise == own.noise
    assert arms(stages, 3) == arms(stages, 3)
    assert list(arms(stages, 3)) != list(arms(stages, 4))


def test_a_network_without_residual_blocks_has_no_schedules_to_draw() -> None:
    assert len(arms((), 0)) == 7


# images


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_images_are_parted_once_each_and_class_by_class(data_of: DataOf, share: float) -> None:
    part = data_of(train=60, classes=3).train
    ones, others = part_images(part, share, 5)
    assert sorted(ones.paths + others.paths) == sorted(part.paths)
    for own in (ones, others):
        rows = [part.paths.index(path) for path in own.paths]
        assert rows == sorted(rows)
        np.testing.assert_array_equal(own.images, part.images[rows])
        np.testing.assert_array_equal(own.labels, part.labels[rows])
        assert own.raw_labels == tuple(part.raw_labels[row] for row in rows)
    assert np.bincount(ones.labels).tolist() == [round(20 * share)] * 3
    assert part_images(part, share, 5)[0].paths == ones.paths
    assert part_images(part, share, 6)[0].paths != ones.paths


@pytest.mark.parametrize("few", [1, 2])
def test_a_class_too_small_to_train_and_judge_is_refused(data_of: DataOf, few: int) -> None:
    part = data_of(train=80).train
    rows = np.concatenate([np.flatnonzero(part.labels == 0), np.flatnonzero(part.labels == 1)[:few]])
    small = replace(
        part,
        images=part.images[rows],
        labels=part.labels[rows],
        paths=tuple(part.paths[i] for i in rows),
        raw_labels=tuple(part.raw_labels[i] for i in rows),
    )
    with pytest.raises(UsageError, match=r"cannot be parted: .*class.*--fraction nearer 0\.7, or add images"):
        part_images(small, 0.95, 0)


# the word


def verdict(name: str, loss: float, saved: tuple[float, float, float], won: tuple[float, float, float]) -> Verdict:
    return Verdict(name, loss, 0.9, Estimate(*saved), Estimate(*won), 2.0)


NONE = verdict(PLAIN, 0.5, (0, 0, 0), (0, 0, 0))
SURE = verdict("dropout", 0.4, (0.1, 0.02, 0.18), (0.01, -0.01, 0.03))


def test_a_noise_is_recommended_when_its_whole_interval_is_a_gain() -> None:
    worse = verdict("Swapout", 0.6, (-0.1, -0.2, 0.0), (0.02, 0.01, 0.03))
    name, sentence = recommend([NONE, worse, SURE])
    assert name == "dropout"
    assert sentence.startswith("Train with dropout")
    for said in ("lowers the loss", "0.100", "+0.020 to +0.180", "+1.0 points (-1.0 to +3.0)", "1.0 times"):
        assert said in sentence


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (verdict("dropout", 0.4, (0.1, -0.01, 0.18), (0.01, -0.01, 0.03)), "lowers the loss"),
        (verdict("dropout", 0.4, (0.1, 0.0, 0.18), (0.01, -0.01, 0.03)), "lowers the loss"),
        (verdict("dropout", 0.4, (0.1, 0.02, 0.18), (-0.02, -0.03, -0.01)), "-2.0 points"),
        (
            verdict("dropout", 0.6, (-0.1, -0.18, -0.02), (0.0, -0.01, 0.01)),
            "raises the loss on unseen images by 0.100",
        ),
    ],
)
def test_a_gain_that_is_not_sure_or_costs_accuracy_leaves_the_training_plain(row: Verdict, said: str) -> None:
    name, sentence = recommend([NONE, row])
    assert name == PLAIN
    assert sentence.startswith("No measurable gain: train plain.")
    assert said in sentence


# the whole


def figures(answers: Sequence[dict[str, Any]], truth: NDArray[np.int64]) -> tuple[float, float]:
    """Balanced loss and accuracy by their definitions, seed by seed."""
    losses, hits = [], []
    for answer in answers:
        for label in np.unique(truth):
            own = np.array(answer["logits"])[truth == label]
            powers = np.exp(own - own.max(1, keepdims=True))
            losses.append(-np.log(powers[:, label] / powers.sum(1)).mean())
            hits.append((own.argmax(1) == label).mean())
    return float(np.mean(losses)), float(np.mean(hits))


def test_the_first_seed_chooses_and_only_the_later_ones_judge(
    attempt: Attempt, piloted: tuple[Path, dict[str, Any], list[int]]
) -> None:
    folder, document, _ = piloted
    answers, truth = json.loads((folder / ANSWERS).read_text()), attempt.data.test.labels
    first = {name: figures([answers[f"{name} #0"]], truth)[0] for name in TRIED}
    assert document["first"] == pytest.approx(first)
    kept = sorted(set(TRIED) - {PLAIN}, key=lambda name: first[name])[:KEPT]
    assert [row["name"] for row in document["judged"]] == [PLAIN, *kept]
    plain = figures([answers[f"{PLAIN} #{seed}"] for seed in (1, 2)], truth)
    for row in document["judged"]:
        loss, accuracy = figures([answers[f"{row['name']} #{seed}"] for seed in (1, 2)], truth)
        assert (row["loss"], row["balanced_accuracy"]) == pytest.approx((loss, accuracy))
        assert row["loss_gain"]["value"] == pytest.approx(plain[0] - loss, abs=1e-12)
        assert row["accuracy_gain"]["value"] == pytest.approx(accuracy - plain[1], abs=1e-12)
        assert abs(loss - first[row["name"]]) > 1e-6  # or the seeds could not be told apart
    assert set(answers) == {f"{name} #0" for name in TRIED} | {f"{n} #{s}" for n in (PLAIN, *kept) for s in (1, 2)}


def test_the_document_says_what_was_done_and_carries_settings_that_load(
    attempt: Attempt, piloted: tuple[Path, dict[str, Any], list[int]]
) -> None:
    folder, document, kept = piloted
    assert kept == list(range(1, TOTAL + 1))  # each answer is on disk before the next training begins
    assert trainings(attempt.arms, SEEDS) == TOTAL
    assert document["images"] == {"trained": 48, "judged": 40}
    assert (document["line"], document["genome"], document["epochs"], document["seeds"]) == ("tiny", "a genome", 1, 2)
    assert document["recommended"] in TRIED
    settings = SwapoutSettings.model_validate_json(json.dumps(document["settings"]))
    assert settings == attempt.arms[document["recommended"]]
    assert document["seconds"] > 0
    assert (folder / "pilot.svg").read_text().startswith("<svg")


def test_a_killed_pilot_goes_on_from_its_answers_and_ends_the_same(
    attempt: Attempt, piloted: tuple[Path, dict[str, Any], list[int]], tmp_path: Path
) -> None:
    before = list(json.loads((piloted[0] / ANSWERS).read_text()).items())
    (tmp_path / ANSWERS).write_text(json.dumps(dict(before[:10])))  # as a kill in the eleventh training leaves it
    told, ticks = Told(), list[None]()
    document = run(attempt, tmp_path, told, lambda: ticks.append(None))
    assert [f"{name} #{seed}" for name, seed in told.items] == [key for key, _ in before[10:]]
    assert len(ticks) == TOTAL - 10
    assert without_times(document) == without_times(piloted[1])
    after = json.loads((tmp_path / ANSWERS).read_text())
    assert {key: own["logits"] for key, own in after.items()} == {key: own["logits"] for key, own in before}


def test_another_process_gives_the_answers_of_this_one(
    attempt: Attempt, piloted: tuple[Path, dict[str, Any], list[int]]
) -> None:
    answers = json.loads((piloted[0] / ANSWERS).read_text())
    jobs = [("Swapout, 1 to 0.8", 0), (PLAIN, 1), ("stochastic depth, 1 to 0.8", 0)]
    workers = Processes(1)
    try:
        for (name, seed), answer in zip(jobs, workers.map(attempt, jobs), strict=True):
            assert answer["logits"] == answers[f"{name} #{seed}"]["logits"]
            assert answer["cure"] == answers[f"{name} #{seed}"]["cure"]
    finally:
        workers.stop()


def test_seed_and_noise_alone_tell_an_answer(attempt: Attempt) -> None:
    one, two = (attempt((TRIED[1], seed))["logits"] for seed in (3, 4))
    assert one != two
    assert attempt((PLAIN, 3))["logits"] != one
