"""Short real trainings, many at a time, each done once: what the shortlist decides by and the audit measures with."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from factory.data.dataset import Part
from factory.engine import Engine
from factory.spaces.network import build
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan
from factory.training.compute import Compute
from factory.training.loop import fit
from factory.training.pictures import Standard
from factory.training.recipe import Recipe
from factory.workspace import code_digest, digest, read_json, write_json

History = list[dict[str, float | None]]


@dataclass(frozen=True, slots=True)
class Trial:
    """A short training as a pure function of the genome, without Swapout, which costs accuracy until one is long."""

    train: Part
    val: Part
    classes: int
    norm: Standard
    recipe: Recipe
    compute: Compute

    def __call__(self, genome: str) -> History:
        """Train one network and return its history, a row an epoch (see `fit`)."""
        height, width, channels = self.train.images.shape[1:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            network = build(plan(parse(genome), Input(height, width, channels), self.classes))
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "checkpoint.safetensors"
            return fit(network, self.train, self.val, self.norm, self.recipe, self.compute, checkpoint, lambda _: None)


class TrialBook:
    """Histories of every network tried on one line, by all that they depend on, in one file."""

    def __init__(self, path: Path, trial: Trial, data_digest: str) -> None:
        self.trial, self._path = trial, path
        self._inputs = {
            "code": code_digest(__name__),
            "data": data_digest,
            "recipe": asdict(trial.recipe) | {"augmentation": trial.recipe.augmentation.model_dump(mode="json")},
            "compute": trial.compute.as_json(),
        }

    def run(self, genomes: Sequence[str], engine: Engine, tick: Callable[[str], None]) -> list[History]:
        """Return the history of every genome, training those that the book lacks; each is kept once it is done.

        `tick` is called with the genome whenever one is there.
        """
        entries: dict[str, History] = read_json(self._path) if self._path.exists() else {}
        keys = {genome: digest(self._inputs | {"genome": genome}) for genome in genomes}
        missing = [genome for genome in dict.fromkeys(genomes) if keys[genome] not in entries]
        for genome in genomes:
            if genome not in missing:
                tick(genome)
        for genome, history in zip(missing, engine.map(self.trial, missing), strict=True):
            entries[keys[genome]] = history
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, entries)
            tick(genome)
        return [entries[keys[genome]] for genome in genomes]
