"""What a search of a line stands on: its images, its costs, short trainings, and what an audit says of the score."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from export.runtime.engine_builder import require_builder
from export.runtime.errors import EnvironmentLacks
from export.runtime.image import RESIZE_RULE
from factory import progress
from factory.cost.book import LatencyBook
from factory.cost.table import MEASURED, TAUGHT, Table, load_table, measure_table
from factory.data import dataset
from factory.data.dataset import Dataset
from factory.data.decode import file_hashes
from factory.engine import Engine, Workers, engine
from factory.evidence.advice import formula
from factory.evidence.audit import load_ranking
from factory.evidence.auditing import audit, draw_networks
from factory.profiles import DeviceProfile, LineProfile, SpaceLimits, engine_device, load_device
from factory.score.calibration import CALIBRATED
from factory.score.ranking import Ranking, Regularised
from factory.search.candidate import Pricing
from factory.search.compare import compare
from factory.search.run import regulariser
from factory.search.space import survey
from factory.search.target import Target, ask_all
from factory.search.trials import Trial, TrialBook
from factory.spaces.plan import Input
from factory.training.compute import Compute, this_machine
from factory.training.full import recipe_of
from factory.training.pictures import Standard, standard
from factory.workspace import Stage, Workspace, read_json


class Groundwork:
    """The first stages of one line. Every property is a stage, or what a stage wrote."""

    def __init__(
        self,
        line: LineProfile,
        root: Path,
        runs: Path,
        workers: Workers | None = None,
        say: Callable[[str], None] = progress.say,
        workspace: Workspace | None = None,
    ) -> None:
        self.line, self.root, self.runs, self._say = line, root, runs, say
        self._workers = workers or Workers("processes", None)
        self.workspace = workspace or Workspace(runs, line.name, say)
        self.device: DeviceProfile = load_device(line.budget.device)
        self._also = tuple(engine_device(name) for name in line.export.also_for)  # refused now, not after the training
        self.compute: Compute = this_machine()
        self.picture = Input(line.input.height, line.input.width, line.input.channels)
        self.classes = len(line.classes.labels)

    @cached_property
    def engines(self) -> tuple[DeviceProfile, ...]:
        """Devices whose engines go into the bundle: those asked for, and the line's own if one can be built here.

        Raises:
            EnvironmentLacks: if one that is asked for cannot be built here.
        """
        for device in self._also:
            require_builder(device.engine.runtime)
        if self.device.name in self.line.export.also_for or self.device.runtime.startswith("onnxruntime"):
            return self._also
        try:
            require_builder(self.device.engine.runtime)
        except EnvironmentLacks as lacking:
            self._say(f"no engine for {self.device.name} is built here: {lacking.message}")
            self._say("the bundle will carry the ONNX model; at the station: station rebuild-engine BUNDLE")
            return self._also
        return (self.device, *self._also)

    # images

    @cached_property
    def data_stage(self) -> Stage:
        """Decode, check, split."""
        items = dataset.list_items(self.line, self.root)
        inputs = {
            "files": [[i.path, i.raw_label, i.split, i.group] for i in items],
            "content": file_hashes(self.root, items),
            "images": self.line.images.model_dump(mode="json", exclude={"root", "csv", "layout"}),
            "classes": self.line.classes.model_dump(mode="json"),
            "input": self.line.input.model_dump(mode="json"),
            "resize": RESIZE_RULE,
        }

        def work(folder: Path) -> None:
            with progress.ticker("images", len(items)) as tick:
                dataset.prepare(self.line, self.root, items, folder, tick)

        return self.workspace.stage("data", inputs, work, dataset.prepare)

    @cached_property
    def data(self) -> Dataset:
        """The pictures; refused when they leak."""
        return dataset.load(self.line, self.data_stage.path)

    @cached_property
    def norm(self) -> Standard:
        """Mean and spread of the training pixels."""
        return standard(self.data.train.images)

    # costs

    @cached_property
    def book(self) -> LatencyBook:
        """Everything ever timed on the budget's device."""
        return LatencyBook(self.runs, self.device)

    @cached_property
    def teachers(self) -> list[LatencyBook]:
        """Books of the devices that the budget's device learns from."""
        return [LatencyBook(self.runs, load_device(name)) for name in self.device.taught_by]

    @cached_property
    def latency_stage(self) -> Stage:
        """Measure a few networks of the space on the budget's device."""
        inputs = {
            "fingerprint": self.book.fingerprint,
            "teachers": [teacher.fingerprint for teacher in self.teachers],
            "picture": asdict(self.picture),
            "classes": self.classes,
            "latency_ms": self.line.budget.latency_ms,
            "space": self.line.space.model_dump(mode="json"),
        }

        def work(folder: Path) -> None:
            with progress.ticker("latency table", TAUGHT if self.teachers else MEASURED) as tick:
                measure_table(
                    self.picture, self.classes, self.line.budget, self.book, folder, tick, self.line.space,
                    self.teachers,
                )  # fmt: skip

        return self.workspace.stage("latency", inputs, work, measure_table)

    @cached_property
    def latency_table(self) -> Table:
        """The measured networks, and latency of any genome."""
        return load_table(self.latency_stage.path)

    @cached_property
    def pricing(self) -> Pricing:
        """Costs of any genome, whether they keep the budgets, and what the line allows of the space."""
        return Pricing(self.picture, self.classes, self.line.budget, self.latency_table.model, self.line.space)

    @property
    def target(self) -> Target:
        """The kind of station that the line's budget is of."""
        return Target(self.pricing, self.latency_table, self.book, self.ranking)

    @cached_property
    def targets(self) -> list[Target]:
        """All kinds of station of the line by name, so that the search is the same whichever stands first."""
        others = {
            device: Groundwork(self.line.at(device), self.root, self.runs, self._workers, self._say, self.workspace)
            for device in self.line.devices
        }
        grounds = others | {self.device.name: self}
        return ask_all([grounds[device] for device in sorted(grounds)], lambda ground: ground.target)

    # audit

    def _candidate_inputs(self) -> dict[str, Any]:
        """What networks a line may have depends on, and how they are scored."""
        return {
            "data": self.data_stage.result,
            "latency": self.latency_stage.result,
            "budget": self.line.budget.model_dump(mode="json", exclude={"rhythm_ms"}),
            "space": self.line.space.model_dump(mode="json"),
        }

    def _audit_inputs(self) -> dict[str, Any]:
        return self._candidate_inputs() | {
            "settings": self.line.search.model_dump(mode="json", include={"repeats", "seed"}),
            "training": self.line.training.model_dump(
                mode="json", exclude={"epochs", "short_epochs", "swapout", "teacher"}
            ),
            "compute": replace(self.compute, threads=1).as_json(),
        }

    def audit_stage(self, nets: int, epochs: int) -> Stage:
        """Train random networks briefly, and measure which score ranks them."""

        def work(folder: Path) -> None:
            drawn = draw_networks(self.pricing, nets, self.line.search.seed, self._say)
            with progress.ticker("short trainings", len(drawn)) as tick, self._engine() as engine:
                book = self.trials(epochs)
                audit(self.line.name, self.line.search, self.pricing, drawn, book, engine, folder, tick, self._say)

        return self.workspace.stage("audit", self._audit_inputs() | {"nets": nets, "epochs": epochs}, work, audit)

    @cached_property
    def audited(self) -> dict[str, Any] | None:
        """What the largest audit of these images, budgets and trainings says; None if there was none."""
        own = self._audit_inputs()
        made = [(i["nets"], i["epochs"]) for i in self.workspace.complete("audit", audit) if i == i | own]
        return read_json(self.audit_stage(*max(made)).path / "audit.json") if made else None

    def _engine(self) -> AbstractContextManager[Engine]:
        return engine(self._workers.name, self.line.search.workers, self._workers.address)

    @cached_property
    def ranking(self) -> Ranking:
        """What the search ranks by: the audit's verdict where there is one, else as the profile says."""
        if self.line.search.score == "paper":
            return Regularised(regulariser(survey(self.pricing)))
        if self.audited is None:
            return CALIBRATED
        nets, advised = self.audited["nets"], self.audited["ranking"]
        self._say(f"search: ranked as the audit of {nets} networks advises ({formula(advised)})")
        return load_ranking(self.audited)

    def compare_stage(self, alternatives: Sequence[SpaceLimits]) -> Stage:
        """Compare two restrictions of the line's space by the scores of random networks."""
        settings = self.line.search
        inputs = self._candidate_inputs() | {
            "alternatives": [limits.model_dump(mode="json") for limits in alternatives],
            "settings": settings.model_dump(mode="json", include={"repeats", "seed"}),
            "ranking": self.ranking.as_json(),
            "torch": self.compute.as_json()["torch"],
        }

        def work(folder: Path) -> None:
            with self._engine() as engine:
                compare(
                    settings, self.pricing, self.ranking, alternatives, self.data.train, self.norm, engine, folder,
                    partial(progress.ticker, "networks"),
                )  # fmt: skip

        return self.workspace.stage("compare", inputs, work, compare)

    def trials(self, epochs: int) -> TrialBook:
        """Short trainings of this line, of `epochs` each: those done before, and those to come."""
        compute = self.compute if self.compute.device == "cuda" else replace(self.compute, threads=1)
        recipe = replace(recipe_of(self.line.training, epochs), patience=0)  # all are compared after as many epochs
        trial = Trial(self.data.train, self.data.val, self.classes, self.norm, recipe, compute)
        return TrialBook(self.workspace.root / "trials.json", trial, self.data_stage.result)
