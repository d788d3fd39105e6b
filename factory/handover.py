"""The signed bundle of an accepted network."""

import platform
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

import factory
from export.build.onnx import INPUT, OUTPUT
from export.build.pack import golden_scores, pack
from export.runtime import image
from export.runtime.decision import softmax
from export.runtime.manifest import (
    DecisionRule,
    DeviceContract,
    Draft,
    Engine,
    Golden,
    Model,
    Output,
    Role,
)
from export.runtime.manifest import Input as InputContract
from export.runtime.strictjson import shape
from factory.cost.book import open_runner
from factory.delivery import MODEL, infer
from factory.outcome import Results
from factory.workspace import code_digest, sha256

GOLDEN_PER_CLASS: Final = 4
GOLDEN_TOLERANCE: Final = 1e-3  # of a probability: another processor rounds otherwise, another model scores otherwise
LIBRARIES: Final = ("torch", "numpy", "onnx", "onnxruntime", "onnxscript", "Pillow", "safetensors")
BUNDLE: Final = "bundle"


def versions() -> dict[str, str]:
    """Versions of the tool, of Python and of the libraries that shape a result."""
    installed = {name: version(name) for name in LIBRARIES if _installed(name)}
    return {"edge-model-factory": factory.__version__, "python": platform.python_version(), **installed}


def _installed(name: str) -> bool:
    try:
        version(name)
    except ModuleNotFoundError:
        return False
    return True


def _golden(results: Results, root: Path) -> tuple[dict[str, tuple[Role, Path | bytes]], bytes]:
    """Validation pictures as they are stored, a few of each class, and their scores by the delivered model."""
    val, line = results.data.val, results.line
    rng = np.random.default_rng(0)
    rows = np.concatenate(
        [
            rng.permutation(np.flatnonzero(val.labels == label))[:GOLDEN_PER_CLASS]
            for label in range(len(line.classes.labels))
        ]
    )
    sources = [root / val.paths[row] for row in rows]
    names = [f"golden/{number:03d}{source.suffix.lower()}" for number, source in enumerate(sources)]
    size = line.input
    frames = np.stack([image.load(source, size.height, size.width, size.channels) for source in sources])
    chosen = results.chosen
    scores = softmax(infer(open_runner(chosen.model, chosen.plan, results.device), frames))
    files: dict[str, tuple[Role, Path | bytes]] = {
        name: ("golden-frame", source) for name, source in zip(names, sources, strict=True)
    }
    classes = line.classes
    return files, golden_scores(names, scores, labels=classes.labels, good=classes.good, threshold=chosen.threshold)


def _draft(results: Results) -> Draft:
    line, device, chosen = results.line, results.device, results.chosen
    size, classes = line.input, line.classes
    engines = tuple(
        replace(shape(Engine, row, "engine"), path=f"engines/{row['path']}") for row in chosen.gate["engines"]
    )
    return Draft(
        line=line.name,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        device=DeviceContract(
            name=device.name,
            runtime=device.runtime,
            precision=device.precision,
            batch=device.batch,
            fallback=device.fallback,
        ),
        labels=classes.labels,
        good=classes.good,
        decision=DecisionRule(rule="argmax" if classes.good is None else "threshold", threshold=chosen.threshold),
        input=InputContract(
            name=INPUT,
            height=size.height,
            width=size.width,
            channels=size.channels,
            colour="grey" if size.channels == 1 else "rgb",
            resize=image.RESIZE_RULE,
        ),
        output=Output(name=OUTPUT),
        model=Model(path=MODEL, precision=device.precision, opset=chosen.gate["opset"]),
        engines=engines,
        golden=Golden(path="golden/scores.json", tolerance=GOLDEN_TOLERANCE),
        threads=device.threads,
        budget=_budget(results),
        acceptance={
            "checks": [vars_of(c) for c in results.checks],
            "test": results.judged,
            "parity": results.acceptance["parity"],
        },
        chain={stage.name: {"inputs": stage.digest, "result": stage.result} for stage in results.own_stages},
        provenance=_provenance(results),
    )


def vars_of(check: Any) -> dict[str, object]:
    """A slotted dataclass as a dict."""
    return {name: getattr(check, name) for name in check.__slots__}


def _budget(results: Results) -> dict[str, object]:
    limits, own = results.line.budget, results.bench[results.chosen.genome]
    measured = {name: value for name, value in own.items() if name != "samples_ms"}
    return {
        "device": limits.device,
        "latency_ms": {"limit": limits.latency_ms, "measured": measured},
        "size_mb": {"limit": limits.size_mb, "measured": results.size_mb},
    }


def _provenance(results: Results) -> dict[str, object]:
    line = results.line
    return {
        "genome": results.chosen.genome,
        "seeds": {
            "split": line.images.split_seed,
            "search": line.search.seed,
            "training": line.training.seed,
        },
        "versions": versions(),
        "code": code_digest("factory.cli"),
        "training": results.chosen.way.name,
        "swapout": asdict(results.chosen.way.swapout.noise),
    }


def pack_bundle(results: Results, root: Path, key: Path, folder: Path) -> None:
    """Write the signed folder `bundle` into `folder`.

    Raises:
        UsageError: if the key or a golden picture cannot be read.
    """
    files, scores = _golden(results, root)
    export_folder = results.chosen.export.path
    files |= {
        MODEL: ("model", export_folder / MODEL),
        "golden/scores.json": ("golden-scores", scores),
        **{f"engines/{row['path']}": ("engine", export_folder / row["path"]) for row in results.chosen.gate["engines"]},
    }
    destination = folder / BUNDLE
    shutil.rmtree(destination, ignore_errors=True)  # of an attempt that was cut short before the stage was complete
    pack(destination, draft=_draft(results), files=files, key=key, signer_name=key.stem)


def bundle_id_of(bundle: Path) -> str:
    """Short name of a bundle: the first 16 hex digits of its manifest's hash."""
    return sha256((bundle / "manifest.json").read_bytes())[:16]
