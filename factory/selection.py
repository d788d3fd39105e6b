"""Which network a line trains, and how: the search, the shortlist, the pilot."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from export.runtime.errors import GateError
from factory import progress
from factory.evidence.pilot import Attempt, arms, part_images, pilot, trainings
from factory.groundwork import Groundwork
from factory.search.run import Found, load_search, search
from factory.search.scorer import scorer_of
from factory.search.shortlist import Entry, load_shortlist, shortlist
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
        inputs = {
            "data": self.data_stage.result,
            "space": self.line.space.model_dump(mode="json"),
            "targets": [target.as_json() for target in self.targets],
            "settings": settings.model_dump(mode="json", exclude={"workers", "shortlist", "score", "one_network"}),
            "torch": self.compute.as_json()["torch"],
        }

        def work(folder: Path) -> None:
            with progress.bar("search", settings.candidates * len(self.targets)) as update, self._engine() as engine:
                search(
                    settings, self.targets, self.data.train, self.norm, engine, folder, lambda n: update(n, ""),
                    self._say,
                )  # fmt: skip

        return self.workspace.stage("search", inputs, work, search)

    @cached_property
    def found(self) -> Found:
        """Networks within the budgets, best first; the front of score, latency and size; how all of it is known."""
        return load_search(self.search_stage.path, self.device.name)

    @cached_property
    def shortlist_stage(self) -> Stage:
        """Train the few best of every kind of station and a plain reference briefly."""
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
            kinds = len(self.targets)
            found = {t.device: load_search(self.search_stage.path, t.device).candidates for t in self.targets}
            most = settings.shortlist * (kinds if kinds == 1 else kinds + 1) + kinds
            with progress.ticker("short trainings", most) as tick, self._engine() as engine:
                trials = self.trials(training.short_epochs)
                shortlist(found, settings.shortlist, self.targets, scorer, trials, engine, folder, lambda _: tick())

        return self.workspace.stage("shortlist", inputs, work, shortlist)

    @cached_property
    def shortlist(self) -> list[Entry]:
        """The networks trained briefly that keep the budgets of the line's device, best on validation first."""
        return self.shortlists[self.device.name]

    @cached_property
    def shortlists(self) -> dict[str, list[Entry]]:
        """The shortlist of every device of the line."""
        return {device: load_shortlist(self.shortlist_stage.path, device) for device in self.line.devices}

    @property
    def best(self) -> str:
        """The genome that is trained in full: the best of the shortlist, or of those that keep all kinds' budgets.

        Raises:
            GateError: if one network is asked for, and none keeps all budgets.
        """
        if not self.line.search.one_network:
            return self.shortlist[0].candidate.genome
        shared = next((e.candidate.genome for e in self.shortlist if e.everywhere), None)
        if shared is None:
            raise GateError(
                "no network of the shortlist keeps the budgets of all kinds of station",
                expected="one for " + ", ".join(self.line.devices),
                found="none",
                fix="leave out search.one_network, or raise a budget",
            )
        return shared

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
