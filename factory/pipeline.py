"""The stages in their order: asking for a late one runs all it stands on, and every complete one is reused."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from export.runtime.errors import GateError
from export.runtime.image import RESIZE_RULE
from export.runtime.keys import key_id, load_private
from factory import delivery, progress
from factory.cost.latency import LatencyBook, LatencyModel
from factory.cost.table import MEASURED, load_table, measure_table
from factory.data import dataset
from factory.data.dataset import Dataset
from factory.data.decode import file_hashes
from factory.engine import Engine, Workers, engine
from factory.evidence.advice import formula
from factory.evidence.audit import load_ranking
from factory.evidence.auditing import audit, draw_networks
from factory.handover import pack_bundle
from factory.outcome import Delivered, Results
from factory.page import write_report
from factory.profiles import DeviceProfile, LineProfile, SpaceLimits, load_device
from factory.score.calibration import CALIBRATED
from factory.score.ranking import Ranking, Regularised
from factory.search.candidate import Pricing
from factory.search.compare import compare
from factory.search.run import Found, load_search, regulariser, search
from factory.search.scorer import Scorer, score_images
from factory.search.shortlist import Entry, Proving, load_shortlist, shortlist
from factory.search.shortlist import reference as plain_reference
from factory.search.space import survey
from factory.search.trials import Trial, TrialBook
from factory.spaces.deployable import Deployable
from factory.spaces.plan import Input, Plan
from factory.spaces.residual import parse, plan
from factory.training.checkpoint import Progress
from factory.training.compute import Compute, this_machine
from factory.training.finish import finish, load_expectation, load_plain
from factory.training.full import load_trained, recipe_of, train
from factory.training.loop import Standard, standard
from factory.workspace import Stage, Workspace, read_json


class Run:
    """One line's way from images to bundle. Every property is a stage, or what a stage wrote."""

    def __init__(
        self,
        line: LineProfile,
        root: Path,
        runs: Path,
        workers: Workers | None = None,
        say: Callable[[str], None] = progress.say,
    ) -> None:
        self.line, self.root, self.runs, self._say = line, root, runs, say
        self._workers = workers or Workers("processes", None)
        self.workspace = Workspace(runs, line.name, say)
        self.device: DeviceProfile = load_device(line.budget.device)
        self.compute: Compute = this_machine()
        self.picture = Input(line.input.height, line.input.width, line.input.channels)
        self.classes = len(line.classes.labels)

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
    def latency_stage(self) -> Stage:
        """Measure a few networks of the space on this device."""
        inputs = {
            "fingerprint": self.book.fingerprint,
            "picture": asdict(self.picture),
            "classes": self.classes,
            "latency_ms": self.line.budget.latency_ms,
            "space": self.line.space.model_dump(mode="json"),
        }

        def work(folder: Path) -> None:
            with progress.ticker("latency table", MEASURED) as tick:
                measure_table(self.picture, self.classes, self.line.budget, self.book, folder, tick, self.line.space)

        return self.workspace.stage("latency", inputs, work, measure_table)

    @cached_property
    def latency_model(self) -> LatencyModel:
        """Latency of any genome."""
        return load_table(self.latency_stage.path)[0]

    @cached_property
    def pricing(self) -> Pricing:
        """Costs of any genome, whether they keep the budgets, and what the line allows of the space."""
        return Pricing(self.picture, self.classes, self.line.budget, self.latency_model, self.line.space)

    # audit

    def _audit_inputs(self) -> dict[str, Any]:
        return {
            "data": self.data_stage.result,
            "latency": self.latency_stage.result,
            "budget": self.line.budget.model_dump(mode="json"),
            "space": self.line.space.model_dump(mode="json"),
            "settings": self.line.search.model_dump(mode="json", include={"repeats", "seed"}),
            "training": self.line.training.model_dump(mode="json", exclude={"epochs", "short_epochs", "swapout"}),
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

    # search

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
        inputs = {
            "data": self.data_stage.result,
            "latency": self.latency_stage.result,
            "budget": self.line.budget.model_dump(mode="json"),
            "space": self.line.space.model_dump(mode="json"),
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

    @cached_property
    def search_stage(self) -> Stage:
        """Score many networks without training."""
        settings = self.line.search
        inputs = {
            "data": self.data_stage.result,
            "latency": self.latency_stage.result,
            "budget": self.line.budget.model_dump(mode="json"),
            "space": self.line.space.model_dump(mode="json"),
            "settings": settings.model_dump(mode="json", exclude={"workers", "shortlist", "score"}),
            "ranking": self.ranking.as_json(),
            "torch": self.compute.as_json()["torch"],
        }

        def work(folder: Path) -> None:
            with progress.bar("search", settings.candidates) as update, self._engine() as engine:
                search(
                    settings, self.pricing, self.ranking, self.data.train, self.norm, engine, folder,
                    lambda n: update(n, ""), self._say,
                )  # fmt: skip

        return self.workspace.stage("search", inputs, work, search)

    @cached_property
    def found(self) -> Found:
        """All scored networks, best first; the front of score against latency against size; how they were scored."""
        return load_search(self.search_stage.path)

    def trials(self, epochs: int) -> TrialBook:
        """Short trainings of this line, of `epochs` each: those done before, and those to come."""
        compute = self.compute if self.compute.device == "cuda" else replace(self.compute, threads=1)
        recipe = recipe_of(self.line.training, epochs)
        trial = Trial(self.data.train, self.data.val, self.classes, self.norm, recipe, compute)
        return TrialBook(self.workspace.root / "trials.json", trial, self.data_stage.result)

    @cached_property
    def shortlist_stage(self) -> Stage:
        """Train the few best and a plain reference briefly."""
        settings, training = self.line.search, self.line.training
        inputs = {
            "data": self.data_stage.result,
            "search": self.search_stage.result,
            "shortlist": settings.shortlist,
            "training": training.model_dump(mode="json", exclude={"epochs", "swapout"}),
            "compute": self.compute.as_json(),
        }

        def work(folder: Path) -> None:
            images = score_images(self.data.train, self.norm, self.found.protocol.samples, settings.seed)
            space = Deployable(self.picture, self.classes)
            scorer = Scorer(space, images, self.classes, settings.seed, self.found.protocol)
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

    # training, collapse, export of one network

    @cached_property
    def chosen(self) -> Delivered:
        """The best of the shortlist."""
        return self._deliver(self.shortlist[0].candidate.genome)

    @cached_property
    def reference(self) -> Delivered | None:
        """The plain residual network of the same budgets, trained the same way; None if none fits or it is chosen."""
        genome = plain_reference(self.pricing, self.book)
        return None if genome is None or str(genome) == self.chosen.genome else self._deliver(str(genome))

    @cached_property
    def engines(self) -> list[DeviceProfile]:
        """Devices beside the budget's own for which an engine is packed."""
        return [load_device(name) for name in self.line.export.also_for]

    def train_stage(self, genome: str) -> Stage:
        """Train one network in full."""
        settings = self.line.training
        inputs = {
            "data": self.data_stage.result,
            "genome": genome,
            "training": settings.model_dump(mode="json", exclude={"short_epochs"}),
            "compute": self.compute.as_json(),
        }

        def work(folder: Path) -> None:
            def on_epoch(p: Progress) -> None:
                update(p.epoch, f"loss {p.history[-1]['loss']:.3f}")

            with progress.bar(f"training {genome[:40]}", settings.epochs) as update:
                train(self.plan(genome), settings, self.data, self.norm, self.compute, folder, on_epoch)

        return self.workspace.stage("train", inputs, work, train)

    def collapse_stage(self, genome: str) -> Stage:
        """Re-estimate batch-norm and collapse to the plain network."""
        trained = self.train_stage(genome)
        inputs = {"data": self.data_stage.result, "train": trained.result, "genome": genome}

        def work(folder: Path) -> None:
            network = load_trained(self.plan(genome), self.line.training.swapout, trained.path)
            finish(network, self.data, self.norm, self.compute, folder)

        return self.workspace.stage("collapse", inputs | {"compute": self.compute.as_json()}, work, finish)

    def _deliver(self, genome: str) -> Delivered:
        trained, collapsed = self.train_stage(genome), self.collapse_stage(genome)
        inputs = {
            "data": self.data_stage.result,
            "collapse": collapsed.result,
            "escape_max": self.line.acceptance.escape_max,
            "good": self.line.classes.good,
            "device": self.device.model_dump(mode="json"),
            "engines": [engine.model_dump(mode="json") for engine in self.engines],
        }

        def work(folder: Path) -> None:
            trained_network = load_trained(self.plan(genome), self.line.training.swapout, trained.path)
            networks = (
                load_expectation(trained_network, collapsed.path),
                load_plain(self.plan(genome), collapsed.path),
            )
            delivery.export_network(
                self.line,
                self.device,
                self.engines,
                self.plan(genome),
                networks,
                self.data,
                self.norm,
                folder,
            )

        stage = self.workspace.stage("export", inputs, work, delivery.export_network)
        return Delivered(genome, self.plan(genome), trained, collapsed, stage)

    def plan(self, genome: str) -> Plan:
        """Every layer of a genome on this line."""
        return plan(parse(genome), self.picture, self.classes)

    # judgement

    @cached_property
    def networks(self) -> list[Delivered]:
        """The chosen network and, unless it is the same, the plain reference."""
        return [self.chosen] if self.reference is None else [self.chosen, self.reference]

    @cached_property
    def bench_stage(self) -> Stage:
        """Time the delivered files on the budget's device."""
        inputs = {
            "fingerprint": self.book.fingerprint,
            "models": [network.export.result for network in self.networks],
        }

        def work(folder: Path) -> None:
            say = {network.genome: (network.model, network.plan) for network in self.networks}
            with progress.ticker("latency", delivery.BENCH_ROUNDS * len(say)) as tick:
                delivery.bench(say, self.device, folder, tick)

        return self.workspace.stage("bench", inputs, work, delivery.bench)

    @cached_property
    def accept_stage(self) -> Stage:
        """Judge on the test images, once."""
        inputs = {
            "data": self.data_stage.result,
            "models": [network.export.result for network in self.networks],
            "collapse": self.chosen.collapse.result,
        }

        def work(folder: Path) -> None:
            judged = {n.genome: (n.model, n.plan, n.threshold) for n in self.networks}
            plain = load_plain(self.chosen.plan, self.chosen.collapse.path)
            delivery.accept(self.line, self.device, judged, plain, self.data.test, self.norm, folder)

        return self.workspace.stage("accept", inputs, work, delivery.accept)

    @cached_property
    def results(self) -> Results:
        """All that the stages found, in one value."""
        return Results(
            self.line,
            self.device,
            self.data,
            self.chosen,
            self.reference,
            self.shortlist,
            self.found,
            self.latency_model,
            read_json(self.bench_stage.path / "bench.json"),
            read_json(self.accept_stage.path / "acceptance.json"),
            np.load(self.accept_stage.path / "logits.npy", allow_pickle=False),
            read_json(self.data_stage.path / "check.json"),
            tuple(self.workspace.stages),
        )

    # hand-over

    def pack_stage(self, key: Path) -> Stage:
        """Sign and pack the bundle.

        Raises:
            GateError: if a limit or a budget is missed; such a network is not packed.
        """
        results = self.results
        if results.missed:
            raise GateError("the network is not accepted, so it is not packed", found="; ".join(results.missed))
        inputs = {
            "export": self.chosen.export.result,
            "bench": self.bench_stage.result,
            "accept": self.accept_stage.result,
            "acceptance": self.line.acceptance.model_dump(mode="json"),
            "key": key_id(load_private(key).public_key()),
        }
        work = partial(pack_bundle, results, self.root, key)
        return self.workspace.stage("pack", inputs, work, pack_bundle)

    def report_stage(self, bundle: Path | None) -> Stage:
        """Write the page."""
        inputs = {
            "acceptance": self.line.acceptance.model_dump(mode="json"),
            "stages": [stage.result for stage in self.workspace.stages],
            "audit": self.audited and self.audited["sentence"],
            "bundle": str(bundle),
        }
        work = partial(write_report, self.results, self.audited, bundle)
        return self.workspace.stage("report", inputs, work, write_report)
