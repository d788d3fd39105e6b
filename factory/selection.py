"""Which network a line trains, and how: the search, the shortlist, the pilot."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from factory import progress
from factory.evidence.pilot import Attempt, arms, part_images, pilot, trainings
from factory.groundwork import Groundwork
from factory.search.run import Found, Measuring, load_search, search
from factory.search.scorer import scorer_of
from factory.search.shortlist import Entry, Proving, load_shortlist, shortlist
from factory.spaces.plan import Plan
from factory.spaces.residual import parse, plan
from factory.training.full import recipe_of
from factory.workspace import Stage, read_json


class Selection(Groundwork):
    """The stages between the groundwork and the full training."""

    def plan(self, genome: str) -> Plan:
        """Every layer of a genome on this line."""
        return plan(parse(genome), self.picture, self.classes)

    # search

    @cached_property
    def search_stage(self) -> Stage:
        """Score many networks without training, and measure the front."""
        settings = self.line.search
        inputs = self._candidate_inputs() | {
            "settings": settings.model_dump(mode="json", exclude={"workers", "shortlist", "score"}),
            "ranking": self.ranking.as_json(),
            "torch": self.compute.as_json()["torch"],
        }

        def work(folder: Path) -> None:
            with progress.bar("search", settings.candidates) as update, self._engine() as engine:
                search(
                    settings, self.pricing, Measuring(self.latency_table, self.book), self.ranking, self.data.train,
                    self.norm, engine, folder, lambda n: update(n, ""), self._say,
                )  # fmt: skip

        return self.workspace.stage("search", inputs, work, search)

    @cached_property
    def found(self) -> Found:
        """Networks within the budgets, best first; the front of score, latency and size; how all of it is known."""
        return load_search(self.search_stage.path)

    @cached_property
    def shortlist_stage(self) -> Stage:
        """Train the few best and a plain reference briefly."""
        settings, training = self.line.search, self.line.training
        inputs = {
            "data": self.data_stage.result,
            "search": self.search_stage.result,
            "shortlist": settings.shortlist,
            "training": training.model_dump(mode="json", exclude={"epochs", "swapout", "teacher"}),
            "compute": self.compute.as_json(),
        }

        def work(folder: Path) -> None:
            scorer = scorer_of(self.pricing, self.data.train, self.norm, settings.seed, self.found.protocol)
            with progress.ticker("short trainings", settings.shortlist + 1) as tick, self._engine() as engine:
                proving = Proving(self.pricing, self.book, self.trials(training.short_epochs), engine)
                shortlist(
                    self.found.candidates, settings.shortlist, self.ranking, scorer, proving, folder, lambda _: tick()
                )

        return self.workspace.stage("shortlist", inputs, work, shortlist)

    @cached_property
    def shortlist(self) -> list[Entry]:
        """The networks trained briefly, best on validation first."""
        return load_shortlist(self.shortlist_stage.path)

    @property
    def best(self) -> str:
        """The genome that is trained in full: the best of the shortlist."""
        return self.shortlist[0].candidate.genome

    # pilot

    def _pilot_inputs(self) -> dict[str, Any]:
        return {
            "data": self.data_stage.result,
            "shortlist": self.shortlist_stage.result,
            "training": self.line.training.model_dump(
                mode="json", exclude={"epochs", "short_epochs", "swapout", "teacher"}
            ),
            "compute": replace(self.compute, threads=1).as_json(),
        }

    def pilot_stage(self, fraction: float, seeds: int, epochs: int) -> Stage:
        """Train the chosen genome with several kinds of noise, and say which is worth it."""
        inputs = self._pilot_inputs() | {"fraction": fraction, "seeds": seeds, "epochs": epochs}

        def work(folder: Path) -> None:
            attempt = self._attempt(fraction, epochs)
            total = trainings(attempt.arms, seeds)
            with progress.ticker("pilot trainings", total) as tick, self._engine() as engine:
                pilot(self.line.name, self.best, attempt, seeds, engine, folder, tick)

        return self.workspace.stage("pilot", inputs, work, pilot)

    def _attempt(self, fraction: float, epochs: int) -> Attempt:
        plan, seed = self.plan(self.best), self.line.training.seed
        train, judge = part_images(self.data.train, fraction, seed)
        compute = self.compute if self.compute.device == "cuda" else replace(self.compute, threads=1)
        data = replace(self.data, train=train, test=judge)
        return Attempt(plan, arms(plan.stages, seed), data, self.norm, recipe_of(self.line.training, epochs), compute)

    @cached_property
    def piloted(self) -> dict[str, Any] | None:
        """What the largest pilot of this network and these trainings said; None if there was none."""
        own = self._pilot_inputs()
        made = [
            (i["epochs"], i["seeds"], i["fraction"]) for i in self.workspace.complete("pilot", pilot) if i == i | own
        ]
        if not made:
            return None
        epochs, seeds, fraction = max(made)
        document: dict[str, Any] = read_json(self.pilot_stage(fraction, seeds, epochs).path / "pilot.json")
        return document
