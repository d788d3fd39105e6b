"""The stages in their order: asking for a late one runs all it stands on, and every complete one is reused."""

from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from export.runtime.errors import GateError
from export.runtime.keys import key_id, load_private
from factory import delivery, progress
from factory.choice import TURNS, Option, options, weigh
from factory.handover import pack_bundle
from factory.inspection import write_inspection
from factory.kinds import serve
from factory.outcome import Delivered, Results
from factory.page import Aside, write_report
from factory.search.nominate import reference as plain_reference
from factory.training.finish import (
    EXPECTED,
    load_plain,
    load_with,
)
from factory.training.full import with_swapout
from factory.training.robustness import STEPS, load_robustness, write_robustness
from factory.trainings import PLAIN, Trainings, Way
from factory.variants import PLACES
from factory.workspace import Stage, read_json


class Run(Trainings):
    """One line's way from images to bundle: every property is a stage, or what a stage wrote."""

    # the delivered network

    @cached_property
    def chosen(self) -> Delivered:
        """The best of the shortlist, trained the better way."""
        return self._deliver(self.best, self.ways[self.way])

    @cached_property
    def reference(self) -> Delivered | None:
        """The plain residual network of the same budgets, trained without noise; None if none fits or it is chosen."""
        chosen = self.chosen  # first: on the way there the plain networks are measured among others, in one walk
        genome = plain_reference(self.target)
        return None if genome is None or genome == chosen.genome else self._deliver(genome, PLAIN)

    def _deliver(self, genome: str, way: Way) -> Delivered:
        trained, collapsed = self.train_stage(genome, way), self.collapse_stage(genome, way)
        inputs = {
            "data": self.data_stage.result,
            "collapse": collapsed.result,
            "acceptance": self.line.acceptance.model_dump(mode="json"),
            "good": self.line.classes.good,
            "seed": self.line.training.seed,
            "device": self.device.model_dump(mode="json"),
            "engines": [engine.model_dump(mode="json") for engine in self.engines],
        }

        def work(folder: Path) -> None:
            expected = load_with(with_swapout(self.plan(genome), way.swapout), collapsed.path / EXPECTED)
            delivery.export_network(
                self.line,
                self.device,
                self.engines,
                self.plan(genome),
                (expected, load_plain(self.plan(genome), collapsed.path)),
                self.data,
                self.norm,
                folder,
            )

        stage = self.workspace.stage("export", inputs, work, delivery.export_network)
        place = PLACES[self.device.runtime]
        return Delivered(genome, way, self.plan(genome), place, trained, collapsed, stage)

    # judgement

    @cached_property
    def networks(self) -> list[Delivered]:
        """The chosen network and, unless it is the same, the plain reference."""
        return [self.chosen] if self.reference is None else [self.chosen, self.reference]

    @cached_property
    def bench_stage(self) -> Stage:
        """Time every file that passed the gate on the budget's device, and choose the precision of each network."""
        inputs = {
            "fingerprint": self.book.fingerprint,
            "models": [network.export.result for network in self.networks],
            "size_mb": self.line.budget.size_mb,
        }

        def work(folder: Path) -> None:
            models = {network.genome: (network.models, network.plan) for network in self.networks}
            files = sum(len(own) for own, _ in models.values())
            with progress.ticker("latency", delivery.BENCH.rounds * files) as tick:
                delivery.bench(models, self.book, self.line.budget.size_mb, folder, tick)

        return self.workspace.stage("bench", inputs, work, delivery.bench)

    @cached_property
    def choice_stage(self) -> Stage:
        """Measure what else a station pays for each precision: after idling, many frames at once, memory."""
        chosen, rhythm_ms = self.chosen, self.line.budget.rhythm_ms
        inputs = {
            "fingerprint": self.book.fingerprint,
            "model": chosen.export.result,
            "rhythm_ms": rhythm_ms,
            "batch": self.device.batch,
        }

        def work(folder: Path) -> None:
            with progress.ticker("rhythm, batch, memory", TURNS * len(chosen.models)) as tick:
                weigh(chosen.models, chosen.plan, self.book, rhythm_ms, folder, tick)

        return self.workspace.stage("choice", inputs, work, weigh)

    @cached_property
    def options(self) -> list[Option]:
        """Every way to run the chosen network on the budget's device."""
        timed = read_json(self.bench_stage.path / "variants.json")[self.chosen.genome]
        choice = read_json(self.choice_stage.path / "choice.json")
        delivered = self.delivered[0].precision
        return options(self.chosen.runnable, timed, choice, self.device, self.line.budget, delivered)

    @cached_property
    def delivered(self) -> list[Delivered]:
        """`networks`, each in the precision that the bench chose."""
        timed = read_json(self.bench_stage.path / "bench.json")
        return [replace(network, precision=timed[network.genome]["precision"]) for network in self.networks]

    @cached_property
    def accept_stage(self) -> Stage:
        """Judge on the test images, once."""
        inputs = {
            "data": self.data_stage.result,
            "models": [[network.export.result, network.precision] for network in self.delivered],
            "collapse": self.chosen.collapse.result,
        }

        def work(folder: Path) -> None:
            judged = {n.genome: (n.variant["place"], n.model, n.plan, n.threshold) for n in self.delivered}
            plain = load_plain(self.chosen.plan, self.chosen.collapse.path)
            test, exact = self.data.test, self.chosen.threshold
            delivery.accept(self.line, self.device, judged, plain, exact, test, self.norm, folder)

        return self.workspace.stage("accept", inputs, work, delivery.accept)

    @cached_property
    def inspection_stage(self) -> Stage:
        """Say what looks usual, and count what a station would send to a person."""
        chosen = self.delivered[0]
        inputs = {
            "data": self.data_stage.result,
            "model": [chosen.export.result, chosen.precision],
            "accept": self.accept_stage.result,
            "inspection": self.line.inspection.model_dump(mode="json"),
        }

        def work(folder: Path) -> None:
            test = np.load(self.accept_stage.path / "logits.npy", allow_pickle=False)
            write_inspection(self.line, self.device, chosen, self.data, test, folder)

        return self.workspace.stage("inspection", inputs, work, write_inspection)

    @cached_property
    def robustness_stage(self) -> Stage:
        """Judge the chosen genome, trained each way, and the reference on pictures made worse as at a station."""
        networks = {}
        for name, way in self.ways.items():
            precision = self.delivered[0].precision
            apart = "" if precision == "fp32" else f" in {precision}, studied in fp32"
            delivered = f", delivered{apart}" if name == self.way else ""
            networks[f"trained {name}{delivered}"] = self.best, self.collapse_stage(self.best, way)
        if self.reference is not None:
            networks["plain reference"] = self.reference.genome, self.reference.collapse
        inputs = {
            "data": self.data_stage.result,
            "networks": {name: stage.result for name, (_, stage) in networks.items()},
            "escape_max": self.line.acceptance.escape_max,
            "good": self.line.classes.good,
        }

        def work(folder: Path) -> None:
            subjects = [
                delivery.subject(name, self.line, load_plain(self.plan(genome), stage.path), self.data.val, self.norm)
                for name, (genome, stage) in networks.items()
            ]
            with progress.ticker("robustness", STEPS) as tick:
                write_robustness(self.line.name, self.line.classes, self.data.test, subjects, 0, folder, tick)

        return self.workspace.stage("robustness", inputs, work, write_robustness)

    @cached_property
    def results(self) -> Results:
        """All that the stages found, in one value."""
        return Results(
            self.line,
            self.device,
            self.data,
            self.delivered[0],
            self.delivered[1] if len(self.delivered) > 1 else None,
            self.shortlist,
            self.found,
            read_json(self.bench_stage.path / "bench.json"),
            read_json(self.bench_stage.path / "variants.json"),
            read_json(self.choice_stage.path / "choice.json"),
            read_json(self.accept_stage.path / "acceptance.json"),
            np.load(self.accept_stage.path / "logits.npy", allow_pickle=False),
            read_json(self.data_stage.path / "check.json"),
            self.losses,
            None if self.modes_stage is None else read_json(self.modes_stage.path / "modes.json"),
            None if self.tuition_stage is None else read_json(self.tuition_stage.path / "tuition.json"),
            serve(self.line, self.shortlists),
            self.inspection_stage,
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
            "inspection": self.inspection_stage.result,
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
            "robustness": self.robustness_stage.result,
            "audit": self.audited and self.audited["sentence"],
            "pilot": self.piloted,
            "bundle": str(bundle),
        }
        aside = Aside(self.audited, self.piloted, load_robustness(self.robustness_stage.path))
        work = partial(write_report, self.results, aside, bundle)
        return self.workspace.stage("report", inputs, work, write_report)
