"""The stages in their order: asking for a late one runs all it stands on, and every complete one is reused."""

from functools import cached_property, partial
from pathlib import Path

import numpy as np

from export.runtime.errors import GateError
from export.runtime.keys import key_id, load_private
from factory import delivery, progress
from factory.groundwork import Groundwork
from factory.handover import pack_bundle
from factory.outcome import Delivered, Results
from factory.page import write_report
from factory.profiles import DeviceProfile, load_device
from factory.search.run import Found, load_search, search
from factory.search.scorer import scorer_of
from factory.search.shortlist import Entry, Proving, load_shortlist, shortlist
from factory.search.shortlist import reference as plain_reference
from factory.spaces.plan import Plan
from factory.spaces.residual import parse, plan
from factory.training.checkpoint import Progress
from factory.training.finish import finish, load_expectation, load_plain
from factory.training.full import load_trained, train
from factory.workspace import Stage, read_json


class Run(Groundwork):
    """One line's way from images to bundle: every property is a stage, or what a stage wrote."""

    # search

    @cached_property
    def search_stage(self) -> Stage:
        """Score many networks without training."""
        settings = self.line.search
        inputs = self._candidate_inputs() | {
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
