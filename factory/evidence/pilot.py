"""A pilot: which noise this line's training gains from, if any, measured before the full training is paid for.

Several kinds of noise are trained with one seed each; the best of them go on, beside the plain network, with seeds of
their own (successive halving, Jamieson and Talwalkar 2016, with trainings as the budget: a shorter training would
wrong every noise). Only the later seeds, on training images that no training saw, judge: what chose does not judge.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.model_selection import train_test_split

from export.runtime.errors import UsageError
from factory.data.dataset import Dataset, Part
from factory.engine import Engine
from factory.evidence.pilot_figure import pilot_figure
from factory.profiles import SwapoutSettings
from factory.spaces.network import build
from factory.spaces.plan import Plan
from factory.training.compute import Compute
from factory.training.finish import cure
from factory.training.inference import infer
from factory.training.loop import fit
from factory.training.metrics import Estimate
from factory.training.paired import gain
from factory.training.pictures import Standard
from factory.training.recipe import Recipe
from factory.workspace import read_json, write_atomic, write_json

PLAIN: Final = "no noise"
KEPT: Final = 2  # kinds of noise that go on to the judging seeds
SEARCHED: Final = 3  # random schedules per stage among the arms
LEVELS: Final = (1.0, 0.9, 0.8, 0.65, 0.5)
ANSWERS: Final = "answers.json"

Arms = Mapping[str, SwapoutSettings]
Answer = dict[str, Any]  # of one training: logits of the judging images, seconds, the cure that was chosen


def _schedule(**settings: Any) -> SwapoutSettings:
    return SwapoutSettings.model_validate(settings)


def arms(stages: Sequence[int], seed: int) -> dict[str, SwapoutSettings]:
    """What is tried, by name; `stages` is the stage of each residual block of the network.

    The last are the automatic choice: keep probabilities of each stage drawn at random from 1 to 0.5 (random search,
    Bergstra and Bengio 2012), in the same contest as the schedules set by hand.
    """
    mild, strong = {"linear": (1.0, 0.8)}, {"linear": (1.0, 0.5)}
    found = {
        PLAIN: _schedule(method="plain"),
        "Swapout, 1 to 0.8": _schedule(method="swapout", stream=mild),
        "Swapout, 1 to 0.5": _schedule(method="swapout", stream=strong),
        "Swapout of channels, 1 to 0.8": _schedule(method="swapout", stream=mild, per="channel"),
        "stochastic depth, 1 to 0.8": _schedule(method="stochastic-depth", branch=mild, per="sample"),
        "dropout, 1 to 0.8": _schedule(method="dropout", stream=mild),
        "SkipForward, 0.9 to 0.5": _schedule(method="skip-forward", stream={"linear": (0.9, 0.5)}),
    }
    rng, number = np.random.default_rng(seed), len(set(stages))
    wanted = len(found) + (SEARCHED if number else 0)
    while len(found) < wanted:
        drawn = {name: tuple(float(v) for v in rng.choice(LEVELS, number)) for name in ("stream", "branch")}
        text = " and ".join("/".join(f"{v:g}" for v in values) for values in drawn.values())
        schedule = _schedule(method="swapout", **{name: {"stages": values} for name, values in drawn.items()})
        if not schedule.noise.silent:  # which would be a second plain network
            found[f"Swapout by stage, {text}"] = schedule
    return found


def part_images(part: Part, share: float, seed: int) -> tuple[Part, Part]:
    """Split `part` in the share that trains and the rest, which judges, class by class.

    Raises:
        UsageError: if a class has too few images for both.
    """
    try:
        rows = train_test_split(np.arange(len(part.labels)), train_size=share, random_state=seed, stratify=part.labels)
        for own, what in zip(rows, ("trains", "judges"), strict=True):
            lost = np.setdiff1d(part.labels, part.labels[own])
            if len(lost):  # of a class of few images, the rounded share may be none or all
                raise ValueError(f"of the {np.sum(part.labels == lost[0])} images of class {lost[0]} none {what}")
    except ValueError as error:
        raise UsageError(
            f"the training images cannot be parted: {error}", fix="choose a --fraction nearer 0.7, or add images"
        ) from None

    def take(own: NDArray[np.int64]) -> Part:
        own = np.sort(own)
        return Part(
            part.images[own],
            part.labels[own],
            tuple(part.paths[i] for i in own),
            tuple(part.raw_labels[i] for i in own),
        )

    return take(rows[0]), take(rows[1])


@dataclass(frozen=True, slots=True)
class Attempt:
    """One training and its finish as a pure function of (name of the arm, seed)."""

    plan: Plan
    arms: Arms
    data: Dataset  # its test part is what judges
    norm: Standard
    recipe: Recipe
    compute: Compute

    def __call__(self, job: tuple[str, int]) -> Answer:
        """Train, cure, and answer the judging images."""
        name, seed = job
        start = process_time()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(self.plan, self.arms[name].noise)
        recipe = replace(self.recipe, seed=seed)
        with TemporaryDirectory() as place:
            folder = Path(place)
            fit(network, self.data.train, self.data.val, self.norm, recipe, self.compute, folder / "fit", _quietly)
            cured, best, _ = cure(network, self.data, self.norm, recipe, self.compute, folder, _quietly)
        logits = infer(best, self.data.test.images, self.norm, self.compute).logits
        return {"logits": logits.tolist(), "seconds": process_time() - start, "cure": cured.name}


def _quietly(_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Verdict:
    """One arm that was judged; gains are over the plain network, positive is better, all intervals held together."""

    name: str
    loss: float
    balanced_accuracy: float
    loss_gain: Estimate
    accuracy_gain: Estimate
    seconds: float


class _Book:
    """Answers of one pilot, each kept as soon as it is there."""

    def __init__(self, attempt: Attempt, folder: Path, engine: Engine, tick: Callable[[], None]) -> None:
        self.attempt, self.engine, self.tick, self.path = attempt, engine, tick, folder / ANSWERS
        self.answers: dict[str, Answer] = read_json(self.path) if self.path.exists() else {}

    def ask(self, names: Sequence[str], seeds: Sequence[int]) -> dict[str, list[Answer]]:
        """Answers by arm, one a seed; trains those that are missing."""
        jobs = [(name, seed) for seed in seeds for name in names]
        missing = [job for job in jobs if _key(job) not in self.answers]
        for job, answer in zip(missing, self.engine.map(self.attempt, missing), strict=True):
            self.answers[_key(job)] = answer
            write_json(self.path, self.answers)
            self.tick()
        return {name: [self.answers[_key((name, seed))] for seed in seeds] for name in names}


def _key(job: tuple[str, int]) -> str:
    return f"{job[0]} #{job[1]}"


def trainings(arms: Arms, seeds: int) -> int:
    """How many trainings a pilot costs."""
    return len(arms) + seeds * (1 + min(KEPT, len(arms) - 1))


def _figures(answers: Sequence[Answer], truth: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Losses and hits (seeds, images)."""
    logits = np.array([answer["logits"] for answer in answers])
    losses = -log_softmax(logits, axis=2)[:, np.arange(len(truth)), truth]
    return losses, (logits.argmax(axis=2) == truth).astype(np.float64)


def _balanced(values: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    return float(np.mean([values[:, truth == label].mean() for label in np.unique(truth)]))


def _judge(name: str, own: Sequence[Answer], plain: Sequence[Answer], truth: NDArray[np.int64], among: int) -> Verdict:
    (losses, hits), (plain_losses, plain_hits) = _figures(own, truth), _figures(plain, truth)
    accuracy = gain(hits - plain_hits, truth, among)
    return Verdict(
        name,
        _balanced(losses, truth),
        _balanced(hits, truth),
        gain(plain_losses - losses, truth, among),
        Estimate(accuracy.value, max(-1.0, accuracy.low), min(1.0, accuracy.high)),  # a share ends at all
        float(np.mean([answer["seconds"] for answer in own])),
    )


def recommend(judged: Sequence[Verdict]) -> tuple[str, str]:
    """The arm to train with and why, in one sentence; the first of `judged` is the plain network.

    A noise is recommended only when its loss is surely lower than the plain network's, the whole interval, and its
    accuracy not surely lower.
    """
    plain, *noisy = judged
    best = min(noisy, key=lambda row: row.loss)
    loss, accuracy = best.loss_gain, best.accuracy_gain
    found = (
        f"{'lowers' if loss.value >= 0 else 'raises'} the loss on unseen images by {abs(loss.value):.3f} "
        f"(95 %: {loss.low:+.3f} to {loss.high:+.3f} gained) and changes balanced accuracy by "
        f"{100 * accuracy.value:+.1f} points ({100 * accuracy.low:+.1f} to {100 * accuracy.high:+.1f}), "
        f"at {best.seconds / plain.seconds:.1f} times the training time"
    )
    if loss.low > 0 and accuracy.high >= 0:
        return best.name, f"Train with {best.name}: against no noise it {found}."
    return PLAIN, f"No measurable gain: train plain. The best noise, {best.name}, {found}."


def pilot(
    line: str,
    genome: str,
    attempt: Attempt,
    seeds: int,
    engine: Engine,
    folder: Path,
    tick: Callable[[], None],
) -> None:
    """Write pilot.json and pilot.svg into `folder`; `tick` is called after each of `trainings`."""
    book, truth = _Book(attempt, folder, engine, tick), attempt.data.test.labels
    first = book.ask(list(attempt.arms), [0])
    losses = {name: _balanced(_figures(own, truth)[0], truth) for name, own in first.items()}
    kept = sorted((name for name in losses if name != PLAIN), key=lambda name: losses[name])[:KEPT]
    later = book.ask([PLAIN, *kept], range(1, seeds + 1))
    judged = [_judge(name, own, later[PLAIN], truth, len(kept)) for name, own in later.items()]
    name, sentence = recommend(judged)
    document = {
        "line": line,
        "genome": genome,
        "images": {"trained": len(attempt.data.train.labels), "judged": len(truth)},
        "epochs": attempt.recipe.epochs,
        "seeds": seeds,
        "first": losses,
        "judged": [asdict(row) for row in judged],
        "recommended": name,
        "settings": attempt.arms[name].model_dump(mode="json", exclude_none=True),
        "sentence": sentence,
        "seconds": sum(answer["seconds"] for answer in book.answers.values()),
    }
    write_atomic(folder / "pilot.svg", pilot_figure(document).encode())
    write_json(folder / "pilot.json", document)
