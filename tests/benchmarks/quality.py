"""The delivered network beside its peers on one line: same images, same splits, same recipe, one frame each in turn.

    python -m tests.benchmarks quality [LINE] [--runs DIR] [--lite-epochs N]

The line must have been run. Stock networks get the line's own recipe without Swapout (they have no such layers); the
pretrained one is fine-tuned at its own resolution with half the rate. Everything is judged by the same code on
the same test images, each at its own threshold from validation, and timed interleaved with the delivered file.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export.build.onnx import convert
from export.runtime.timing import Latency, measure
from factory.cost.book import open_runner
from factory.delivery import infer
from factory.pipeline import Run
from factory.profiles import LineProfile, load_line
from factory.spaces.plan import Plan
from factory.training.acceptance import judge, threshold_for
from factory.training.full import recipe_of
from factory.training.loop import fit
from factory.training.pretrained import NATIVE, Pretrained
from factory.training.recipe import Recipe
from factory.workspace import read_json, write_json
from tests.benchmarks import peers

ROUNDS, SECONDS = 5, 1.0
LITE_SIDE = NATIVE["lite0"]
ANY_GENOME = "stem_w8_s2-basic_w8_d1_k3_e1_s1-basic_w8_d1_k3_e1_s1"  # of a plan that only tells the frame's shape


@dataclass(frozen=True)
class Row:
    """One network of the table; its plan tells the shape of its frame."""

    name: str
    plan: Plan
    model: bytes
    figures: dict[str, Any]
    train_seconds: float


def _train(name: str, build: Callable[[], nn.Module], recipe: Recipe, run: Run, folder: Path) -> Row:
    """Train one peer on the images of `run`, or read it back, and judge it."""
    done, plan = folder / f"{name}.json", run.plan(ANY_GENOME)
    if done.exists():
        return Row(name, plan, (folder / f"{name}.onnx").read_bytes(), **read_json(done))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build()
    start = time.monotonic()
    fit(
        network,
        run.data.train,
        run.data.val,
        run.norm,
        recipe,
        run.compute,
        folder / f"{name}.safetensors",
        lambda p: print(f"  {name}: {p.epoch}/{recipe.epochs}  {p.history[-1]}", flush=True),
    )
    seconds = time.monotonic() - start
    size = run.line.input
    model = convert(network, run.norm.mean, run.norm.std, (size.height, size.width, size.channels)).SerializeToString()
    runner = open_runner(model, plan, run.device)
    threshold = threshold_for(run.line, run.data.val, infer(runner, run.data.val.images))
    figures = judge(name, run.line, run.data.test, infer(runner, run.data.test.images), threshold).as_json()
    (folder / f"{name}.onnx").write_bytes(model)
    write_json(done, {"figures": figures, "train_seconds": seconds})
    return Row(name, plan, model, figures, seconds)


def _lite(profile: LineProfile, root: Path, runs: Path, epochs: int, folder: Path) -> Row:
    """Fine-tune the pretrained network on the same pictures and splits, decoded at its own resolution, in float32."""
    size = profile.input.model_copy(update={"height": LITE_SIDE, "width": LITE_SIDE})
    run = Run(profile.model_copy(update={"input": size}), root, runs)
    run.compute = replace(run.compute, dtype="float32")
    recipe = recipe_of(profile.training, epochs)
    gentle = replace(recipe, learning_rate=recipe.learning_rate / 2)
    name = f"efficientnet-lite0 pretrained, {epochs} epochs at {LITE_SIDE} px"
    return _train(name, partial(Pretrained, "lite0", run.classes, size), gentle, run, folder)


def _factory_rows(run: Run) -> list[Row]:
    judged = read_json(run.accept_stage.path / "acceptance.json")["judged"]
    names = ["factory, delivered", "plain reference"]
    return [
        Row(name, network.plan, network.model, row, network.train.seconds)
        for name, network, row in zip(names, run.delivered, judged, strict=False)
    ]


def percent(estimate: dict[str, float] | None) -> str:
    """A share with its interval, in percent."""
    if estimate is None:
        return "-"
    return f"{100 * estimate['value']:.1f} ({100 * estimate['low']:.1f}-{100 * estimate['high']:.1f})"


def table(rows: list[Row], run: Run) -> str:
    """Markdown table with latencies measured now, all networks in turn."""
    rng = np.random.default_rng(0)
    samples: list[list[float]] = [[] for _ in rows]
    for _ in range(ROUNDS):
        for own, row in zip(samples, rows, strict=True):
            shape = row.plan.input
            frame = rng.integers(0, 256, (1, shape.height, shape.width, shape.channels), np.uint8)
            open_it = partial(open_runner, row.model, row.plan, run.device)
            own.extend(measure([open_it], frame, rounds=1, seconds=SECONDS)[0].samples_ms)
    timed = [Latency(tuple(own)) for own in samples]
    lines = [
        "| network | balanced accuracy % | AUROC | escape % | overkill % | p50 ms | ratio | MB | training s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row, latency in zip(rows, timed, strict=True):
        figures = row.figures
        lines.append(
            f"| {row.name} | {percent(figures['balanced_accuracy'])} | {figures['auroc']['value']:.3f} "
            f"| {percent(figures['escape'])} | {percent(figures['overkill'])} | {latency.p50:.3f} "
            f"| {latency.p50 / timed[0].p50:.2f} | {len(row.model) / 1e6:.2f} | {row.train_seconds:.0f} |"
        )
    if run.line.classes.good is not None:
        lines.append("| pass everything | 50.0 | 0.500 | 100 | 0 | 0 | 0 | 0 | 0 |")
    return "\n".join(lines)


def main(line: str = "solar-cells", runs: Path = Path("runs"), lite_epochs: int = 0) -> None:
    """Train the peers (kept under `<runs>/<line>/peers`) and print the table."""
    profile, root = load_line(line)
    run = Run(profile, root, runs)
    folder = runs / profile.name / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = recipe_of(profile.training, profile.training.epochs)
    size, classes = profile.input, run.classes
    rows = _factory_rows(run)
    for name in peers.STOCK:
        rows.append(_train(name, partial(peers.stock, name, size.channels, classes), recipe, run, folder))
    if lite_epochs:
        rows.append(_lite(profile, root, runs, lite_epochs, folder))
    print(table(rows, run))
