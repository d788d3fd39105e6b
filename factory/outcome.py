"""What a run found, in one value, and whether it is good enough."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.data.dataset import Dataset
from factory.kinds import Served
from factory.profiles import DeviceProfile, LineProfile
from factory.search.run import Found
from factory.search.shortlist import Entry
from factory.spaces.plan import Plan
from factory.training.acceptance import Check, checks
from factory.trainings import Way
from factory.variants import Place
from factory.workspace import Stage, read_json


@dataclass(frozen=True)
class Delivered:
    """One network all the way: how it was trained, its plan, its stages of training, collapse and export.

    Its precision is float32 until the bench has chosen.
    """

    genome: str
    way: Way
    plan: Plan
    place: Place
    train: Stage
    collapse: Stage
    export: Stage
    precision: str = "fp32"

    @cached_property
    def model(self) -> bytes:
        """The ONNX file in its precision."""
        return self.models[self.precision]

    @cached_property
    def models(self) -> dict[str, bytes]:
        """The ONNX files by precision that passed the gate on the budget's device."""
        return {row["precision"]: (self.export.path / row["path"]).read_bytes() for row in self.runnable if row["path"]}

    @property
    def runnable(self) -> list[dict[str, Any]]:
        """What the gate found of the variants for the budget's device, passed or not."""
        rows: list[dict[str, Any]] = self.gate["variants"]
        return [row for row in rows if row["place"] in ("any", self.place)]

    @property
    def variant(self) -> dict[str, Any]:
        """What the gate found of the variant of this precision."""
        return next(row for row in self.runnable if row["precision"] == self.precision)

    @cached_property
    def gate(self) -> dict[str, Any]:
        """What the gate found: threshold and parity of the float32 model, opset, variants, engines."""
        document: dict[str, Any] = read_json(self.export.path / "gate.json")
        return document

    @property
    def engines(self) -> list[dict[str, Any]]:
        """Engines that go into the bundle: of the budget's device in this precision, of others in every one built."""
        rows: list[dict[str, Any]] = self.gate["engines"]
        own = self.gate["device"]
        return [row for row in rows if row["device"] != own or row["model"] == self.variant["path"]]

    @property
    def threshold(self) -> float | None:
        """Operating threshold chosen on validation images, of this precision."""
        value: float | None = self.variant["threshold"]
        return value

    @cached_property
    def history(self) -> list[dict[str, float | None]]:
        """Rows of the full training, one an epoch."""
        rows: list[dict[str, float | None]] = read_json(self.train.path / "history.json")
        return rows


@dataclass(frozen=True)
class Results:
    """Everything the stages of a run wrote, read once."""

    line: LineProfile
    device: DeviceProfile
    data: Dataset
    chosen: Delivered
    reference: Delivered | None
    shortlist: list[Entry]
    found: Found
    bench: dict[str, Any]
    timed: dict[str, Any]
    choice: dict[str, Any]
    acceptance: dict[str, Any]
    logits: NDArray[np.float32]
    data_check: dict[str, Any]
    losses: dict[str, float]
    modes: dict[str, Any] | None
    tuition: dict[str, Any] | None
    kinds: list[Served]
    inspection: Stage
    stages: tuple[Stage, ...]

    @property
    def own_stages(self) -> list[Stage]:
        """The stages the delivered network stands on, one a name: not other networks', not a teacher's pictures."""
        own = {self.chosen.train.digest, self.chosen.collapse.digest, self.chosen.export.digest}
        made = {"train", "collapse", "export"}
        found: dict[str, Stage] = {}
        for stage in self.stages:
            if stage.name not in made or stage.digest in own:
                found.setdefault(stage.name, stage)  # the line's own data come before those a teacher sees
        return list(found.values())

    @property
    def judged(self) -> dict[str, Any]:
        """Test figures of the delivered network."""
        row: dict[str, Any] = self.acceptance["judged"][0]
        return row

    @property
    def judged_reference(self) -> dict[str, Any] | None:
        """Test figures of the plain reference; None if there is none or it is the one delivered."""
        rows: list[dict[str, Any]] = self.acceptance["judged"]
        return rows[1] if len(rows) > 1 else None

    @property
    def latency_ms(self) -> float:
        """Measured median of the delivered file."""
        return float(self.bench[self.chosen.genome]["p50_ms"])

    @property
    def size_mb(self) -> float:
        """Measured size of the delivered file, in 10^6 bytes."""
        return len(self.chosen.model) / 1e6

    @cached_property
    def checks(self) -> list[Check]:
        """Budgets and limits, each with what was found."""
        budget = self.line.budget
        found = {name: (self.judged[name] or {}).get("value") for name in ("escape", "overkill", "balanced_accuracy")}
        return [
            Check("latency_ms", budget.latency_ms, self.latency_ms, self.latency_ms <= budget.latency_ms),
            Check("size_mb", budget.size_mb, self.size_mb, self.size_mb <= budget.size_mb),
            *checks(self.line.acceptance, found),
        ]

    @property
    def missed(self) -> list[str]:
        """What was asked and not reached, one phrase each."""
        return [f"{c.name} {c.value:.4g}, limit {c.limit:g}" for c in self.checks if not c.passed]

    def as_json(self, bundle: Path | None, report: Path) -> dict[str, Any]:
        """The document of `factory run --json`."""
        judged, reference = self.judged, self.judged_reference

        def value(name: str) -> float | None:
            return judged[name]["value"] if judged[name] else None

        return {
            "line": self.line.name,
            "device": self.device.name,
            "bundle": None if bundle is None else str(bundle),
            "report": str(report),
            "genome": self.chosen.genome,
            "training": self.chosen.way.name,
            "precision": self.chosen.precision,
            "balanced_accuracy": value("balanced_accuracy"),
            "reference_balanced_accuracy": (reference or judged)["balanced_accuracy"]["value"],
            "auroc": value("auroc"),
            "escape": value("escape"),
            "overkill": value("overkill"),
            "latency_ms": self.latency_ms,
            "size_mb": self.size_mb,
            "seconds": round(sum(stage.seconds for stage in self.stages), 1),
            "accepted": not self.missed,
        }
