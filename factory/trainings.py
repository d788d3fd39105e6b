"""The full trainings: the chosen network without noise, with noise, taught; its finish; its ways side by side."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from factory import progress
from factory.data.dataset import Dataset
from factory.groundwork import Groundwork
from factory.profiles import NO_NOISE, SwapoutSettings, TeacherSettings
from factory.selection import Selection
from factory.training import modes
from factory.training.checkpoint import Progress
from factory.training.finish import CURES, REESTIMATED, cure_recipe, finish, finished, load_plain, load_with
from factory.training.full import load_trained, recipe_of, train, with_swapout
from factory.training.pretrained import IMAGENET, NATIVE, Kind, finetune, load_finetuned, picture_for, wheels
from factory.training.program import opened
from factory.training.teacher import PATIENCE, Expert, load_answers, of_network, sampled, together
from factory.training.tuition import TRIED, compare_lessons, lessons, settle, settled
from factory.workspace import Stage, read_json, sha256


@dataclass(frozen=True, slots=True)
class Way:
    """How a network is trained in full: the noise, and whether it learns from the line's teacher, too."""

    swapout: SwapoutSettings
    taught: bool = False

    @property
    def name(self) -> str:
        """What the documents call it."""
        return "taught" if self.taught else self.swapout.method


PLAIN: Final = Way(NO_NOISE)


@dataclass(frozen=True, slots=True)
class Source:
    """Where lessons come from: the pictures the teacher sees, how it is opened, and what it depends on."""

    data: Dataset
    open: Callable[[], Expert]
    inputs: dict[str, Any]


def _shown(update: progress.Update) -> Callable[[Progress], None]:
    """Show a training's epoch, loss and speed."""
    return lambda p: update(p.epoch, f"loss {p.history[-1]['loss']:.3f}, {p.images_per_s:.0f} images/s")


def _counted(update: progress.Update) -> Callable[[Progress], None]:
    """Show epochs of several trainings in a row."""
    done = itertools.count(1)
    return lambda p: update(next(done), f"loss {p.history[-1]['loss']:.3f}")


def _pretrained_kind(teacher: TeacherSettings) -> Kind | None:
    return next((kind for kind in NATIVE if kind == teacher.kind), None)


class Trainings(Selection):
    """The stages from the chosen genome to its finished networks."""

    @cached_property
    def ways(self) -> dict[str, Way]:
        """How the chosen genome is trained: plain, and with the profile's noise and by its teacher where it has any."""
        _ = self.engines  # fails before the work, not behind it
        found = [PLAIN]
        if self._noisy != PLAIN:
            found.append(self._noisy)
        if self.line.training.teacher is not None:
            if (kind := _pretrained_kind(self._teacher)) is not None:
                wheels(kind)  # fails before the work, not behind it
            found.append(Way(NO_NOISE, taught=True))
        return {way.name: way for way in found}

    @property
    def _noisy(self) -> Way:
        """With the profile's noise; the plain way where it has none."""
        swapout = self.line.training.swapout
        return PLAIN if swapout.noise.silent else Way(swapout)

    @cached_property
    def way(self) -> str:
        """The way whose finished network has the lowest loss on validation images; plain where they are equal."""
        return min(self.losses, key=lambda name: self.losses[name])

    @cached_property
    def losses(self) -> dict[str, float]:
        """Balanced loss on validation images of the network finished each way."""
        stages = {name: self.collapse_stage(self.best, way) for name, way in self.ways.items()}
        return {name: finished(stage.path).calibrated_loss for name, stage in stages.items()}

    def train_stage(self, genome: str, way: Way) -> Stage:
        """Train one network in full."""
        training = self.line.training
        epochs = training.epochs * (PATIENCE if way.taught else 1)
        settings = training.model_copy(update={"swapout": way.swapout, "epochs": epochs})
        inputs = {
            "data": self.data_stage.result,
            "genome": genome,
            "training": settings.model_dump(mode="json", exclude={"short_epochs", "teacher"}),
            "taught": [self.lessons_stage.result, self.settling_stage.result] if way.taught else None,
            "compute": self.compute.as_json(),
        }

        def work(folder: Path) -> None:
            teaching = None
            if way.taught:
                teaching = settled(self.settling_stage.path, self.lessons_stage.path, self.compute)
            with progress.bar(f"training {genome[:40]}", settings.epochs) as update:
                train(self.plan(genome), settings, self.data, self.norm, self.compute, folder, _shown(update), teaching)

        return self.workspace.stage("train", inputs, work, train)

    def collapse_stage(self, genome: str, way: Way) -> Stage:
        """Cure what one pass loses to many, and collapse to the plain network."""
        trained = self.train_stage(genome, way)
        recipe = recipe_of(self.line.training, self.line.training.epochs)
        inputs = {
            "data": self.data_stage.result,
            "train": trained.result,
            "genome": genome,
            "swapout": way.swapout.model_dump(mode="json"),
            "training": self.line.training.model_dump(mode="json", exclude={"short_epochs", "swapout", "teacher"}),
            "compute": self.compute.as_json(),
        }

        def work(folder: Path) -> None:
            network = load_trained(self.plan(genome), way.swapout, trained.path)
            with progress.bar("finish", CURES * cure_recipe(recipe).epochs) as update:
                finish(network, self.data, self.norm, recipe, self.compute, folder, _counted(update))

        return self.workspace.stage("collapse", inputs, work, finish)

    @cached_property
    def modes_stage(self) -> Stage | None:
        """The chosen genome trained plain and with noise, asked in every mode; None where the line trains plain."""
        noise = self._noisy
        if noise == PLAIN:
            return None
        plain = self.collapse_stage(self.best, PLAIN)
        trained, collapsed = self.train_stage(self.best, noise), self.collapse_stage(self.best, noise)
        inputs = {
            "data": self.data_stage.result,
            "networks": [stage.result for stage in (plain, trained, collapsed)],
            "acceptance": self.line.acceptance.model_dump(mode="json", include={"escape_max"}),
            "compute": self.compute.as_json(),
        }

        def work(folder: Path) -> None:
            plan = self.plan(self.best)
            asked = modes.five(
                load_plain(plan, plain.path),
                load_trained(plan, noise.swapout, trained.path),
                load_with(with_swapout(plan, noise.swapout), collapsed.path / REESTIMATED),
                load_plain(plan, collapsed.path),
            )
            with progress.ticker("modes", len(asked)) as tick:
                modes.compare_modes(self.line, self.data, asked, self.norm, self.compute, folder, tick)

        return self.workspace.stage("modes", inputs, work, modes.compare_modes)

    # the teacher

    @property
    def _teacher(self) -> TeacherSettings:
        """Of the line; asked for only where it has one."""
        assert self.line.training.teacher is not None
        return self.line.training.teacher

    @cached_property
    def _source(self) -> Source:
        kind = self._teacher.kind
        if (lite := _pretrained_kind(self._teacher)) is not None:
            return self._pretrained(lite)
        if kind == "samples":
            way, plan = self._noisy, self.plan(self.best)
            trained = self.train_stage(self.best, way)

            def samples() -> Expert:
                network = load_trained(plan, way.swapout, trained.path)
                return sampled(network, self.norm, self.compute, modes.SAMPLES, self.line.training.seed)

            return Source(self.data, samples, {"train": trained.result})
        if kind == "shortlist":
            genomes = [entry.candidate.genome for entry in self.shortlist]
            stages = {genome: self.collapse_stage(genome, PLAIN) for genome in genomes}

            def ensemble() -> Expert:
                networks = [load_plain(self.plan(genome), stage.path) for genome, stage in stages.items()]
                return together([of_network(network, self.norm, self.compute) for network in networks])

            return Source(self.data, ensemble, {"networks": [stage.result for stage in stages.values()]})
        path = Path(kind)

        def program() -> Expert:
            return opened(path, self.line.input, self.classes, self.compute)

        return Source(self.data, program, {"file": sha256(path.read_bytes())})

    def _pretrained(self, kind: Kind) -> Source:
        settings, training = self._teacher, self.line.training
        sizes = read_json(self.data_stage.path / "check.json")["sizes"]
        width, height = map(int, next(iter(sizes)).split("x"))
        picture = picture_for(self.line.input, (height, width), settings.side)
        large = Groundwork(
            self.line.model_copy(update={"input": picture}), self.root, self.runs, self._workers, self._say
        )
        large.workspace = self.workspace
        inputs = {
            "data": large.data_stage.result,
            "kind": kind,
            "epochs": settings.epochs,
            "training": training.model_dump(mode="json", exclude={"epochs", "short_epochs", "swapout", "teacher"}),
            "compute": self.compute.as_json(),
        }

        def work(folder: Path) -> None:
            with progress.bar(f"teacher {kind} at {picture.width} pixels", settings.epochs) as update:
                finetune(kind, picture, training, settings.epochs, large.data, self.compute, folder, _shown(update))

        tuned = self.workspace.stage("teacher", inputs, work, finetune)

        def expert() -> Expert:
            return of_network(load_finetuned(kind, picture, self.classes, tuned.path), IMAGENET, self.compute)

        return Source(large.data, expert, {"teacher": tuned.result, "data": large.data_stage.result})

    @cached_property
    def lessons_stage(self) -> Stage:
        """What the teacher says of every picture."""
        source, recipe = self._source, recipe_of(self.line.training, 1)
        inputs = source.inputs | {
            "kind": Path(self._teacher.kind).name,
            "augmentation": recipe.augmentation.model_dump(mode="json"),
            "students": self.data_stage.result,
            "compute": self.compute.as_json(),
        }

        def work(folder: Path) -> None:
            lessons(source.open(), source.data, recipe, self.compute, folder)

        return self.workspace.stage("lessons", inputs, work, lessons)

    @cached_property
    def settling_stage(self) -> Stage:
        """How far the student follows its teacher."""
        training = self.line.training
        inputs = {
            "data": self.data_stage.result,
            "lessons": self.lessons_stage.result,
            "genome": self.best,
            "training": training.model_dump(mode="json", exclude={"epochs", "swapout", "teacher"}),
            "compute": self.compute.as_json(),
        }

        def work(folder: Path) -> None:
            answers = load_answers(self.lessons_stage.path, "train")
            with progress.ticker("short trainings", TRIED) as tick:
                settle(
                    self.plan(self.best), recipe_of(training, PATIENCE * training.short_epochs), self.data, self.norm,
                    self.compute, answers, folder, tick,
                )  # fmt: skip

        return self.workspace.stage("settling", inputs, work, settle)

    @cached_property
    def tuition_stage(self) -> Stage | None:
        """Teacher, student alone and student taught side by side; None where the line has no teacher."""
        if "taught" not in self.ways:
            return None
        students = [self.collapse_stage(self.best, self.ways[name]) for name in ("plain", "taught")]
        inputs = {
            "data": self.data_stage.result,
            "lessons": self.lessons_stage.result,
            "students": [stage.result for stage in students],
            "acceptance": self.line.acceptance.model_dump(mode="json", include={"escape_max"}),
            "compute": self.compute.as_json(),
        }

        def work(folder: Path) -> None:
            alone, taught = (modes.Mode(load_plain(self.plan(self.best), stage.path)) for stage in students)
            compare_lessons(
                self.line, self.data, self.lessons_stage.path, (alone, taught), self.norm, self.compute, folder
            )

        return self.workspace.stage("tuition", inputs, work, compare_lessons)
