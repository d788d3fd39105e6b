"""The full trainings: the chosen network without and with noise, or taught; its finish; its modes side by side."""

import itertools
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from factory import progress
from factory.profiles import NO_NOISE, SwapoutSettings
from factory.selection import Selection
from factory.training import modes
from factory.training.checkpoint import Progress
from factory.training.finish import CURES, REESTIMATED, cure_recipe, finish, finished, load_plain, load_with
from factory.training.full import load_trained, recipe_of, train, with_swapout
from factory.workspace import Stage


def _shown(update: progress.Update) -> Callable[[Progress], None]:
    """Show a training's epoch, loss and speed."""
    return lambda p: update(p.epoch, f"loss {p.history[-1]['loss']:.3f}, {p.images_per_s:.0f} images/s")


def _counted(update: progress.Update) -> Callable[[Progress], None]:
    """Show epochs of several trainings in a row."""
    done = itertools.count(1)
    return lambda p: update(next(done), f"loss {p.history[-1]['loss']:.3f}")


class Trainings(Selection):
    """The stages from the chosen genome to its finished networks."""

    @cached_property
    def ways(self) -> dict[str, SwapoutSettings]:
        """How the chosen genome is trained: without noise, and with the profile's where it has any."""
        swapout = self.line.training.swapout
        return {"plain": NO_NOISE} if swapout.noise.silent else {"plain": NO_NOISE, "swapout": swapout}

    @cached_property
    def way(self) -> str:
        """The way whose finished network has the lower loss on validation images; plain where they are equal."""

        def loss(name: str) -> float:
            return finished(self.collapse_stage(self.best, self.ways[name]).path).calibrated_loss

        return min(self.ways, key=loss)

    def train_stage(self, genome: str, swapout: SwapoutSettings) -> Stage:
        """Train one network in full."""
        return self._once("train", genome, swapout, self._train)

    def _once(
        self, name: str, genome: str, swapout: SwapoutSettings, run: Callable[[str, SwapoutSettings], Stage]
    ) -> Stage:
        """The stage of that name and network, asked of the workspace once."""
        key = name, genome, swapout
        if key not in self._stages:
            self._stages[key] = run(genome, swapout)
        return self._stages[key]

    @cached_property
    def _stages(self) -> dict[tuple[str, str, SwapoutSettings], Stage]:
        return {}

    def _train(self, genome: str, swapout: SwapoutSettings) -> Stage:
        settings = self.line.training.model_copy(update={"swapout": swapout})
        inputs = {
            "data": self.data_stage.result,
            "genome": genome,
            "training": settings.model_dump(mode="json", exclude={"short_epochs"}),
            "compute": self.compute.as_json(),
        }

        def work(folder: Path) -> None:
            with progress.bar(f"training {genome[:40]}", settings.epochs) as update:
                train(self.plan(genome), settings, self.data, self.norm, self.compute, folder, _shown(update))

        return self.workspace.stage("train", inputs, work, train)

    def collapse_stage(self, genome: str, swapout: SwapoutSettings) -> Stage:
        """Cure what one pass loses to many, and collapse to the plain network."""
        return self._once("collapse", genome, swapout, self._collapse)

    def _collapse(self, genome: str, swapout: SwapoutSettings) -> Stage:
        trained = self.train_stage(genome, swapout)
        recipe = recipe_of(self.line.training, self.line.training.epochs)
        inputs = {
            "data": self.data_stage.result,
            "train": trained.result,
            "genome": genome,
            "swapout": swapout.model_dump(mode="json"),
            "training": self.line.training.model_dump(mode="json", exclude={"short_epochs", "swapout"}),
            "compute": self.compute.as_json(),
        }

        def work(folder: Path) -> None:
            network = load_trained(self.plan(genome), swapout, trained.path)
            with progress.bar("finish", CURES * cure_recipe(recipe).epochs) as update:
                finish(network, self.data, self.norm, recipe, self.compute, folder, _counted(update))

        return self.workspace.stage("collapse", inputs, work, finish)

    @cached_property
    def modes_stage(self) -> Stage | None:
        """The chosen genome trained plain and with noise, asked in every mode; None where the line trains plain."""
        if "swapout" not in self.ways:
            return None
        stages = {name: (self.train_stage(self.best, way), self.collapse_stage(self.best, way))
                  for name, way in self.ways.items()}  # fmt: skip
        inputs = {
            "data": self.data_stage.result,
            "networks": [stage.result for both in stages.values() for stage in both],
            "acceptance": self.line.acceptance.model_dump(mode="json", include={"escape_max"}),
            "compute": self.compute.as_json(),
        }

        def work(folder: Path) -> None:
            plan, swapout = self.plan(self.best), self.ways["swapout"]
            (_, plain), (trained, collapsed) = stages["plain"], stages["swapout"]
            noisy = load_trained(plan, swapout, trained.path)
            asked = modes.five(
                load_plain(plan, plain.path),
                noisy,
                load_with(with_swapout(plan, swapout), collapsed.path / REESTIMATED),
                load_plain(plan, collapsed.path),
            )
            with progress.ticker("modes", len(asked)) as tick:
                modes.compare_modes(self.line, self.data, asked, self.norm, self.compute, folder, tick)

        return self.workspace.stage("modes", inputs, work, modes.compare_modes)
