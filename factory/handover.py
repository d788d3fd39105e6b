"""The signed bundle of an accepted network."""

import platform
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import factory
from export.build.onnx import INPUT, OUTPUT
from export.build.pack import pack
from export.build.reference import review_band
from export.runtime import image
from export.runtime.decision import reject_scores
from export.runtime.manifest import (
    Band,
    DecisionRule,
    DeviceContract,
    Draft,
    Engine,
    Golden,
    Model,
    Output,
    Variant,
)
from export.runtime.manifest import Input as InputContract
from export.runtime.strictjson import shape
from factory.golden import TOLERANCE, golden_files, path_of, scores_of, told_models
from factory.inspection import REFERENCE
from factory.outcome import Results
from factory.workspace import code_digest, sha256

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


def _draft(results: Results) -> Draft:
    line, device, chosen = results.line, results.device, results.chosen
    size, classes = line.input, line.classes
    engines = tuple(
        replace(shape(Engine, row["engine"], "engine"), path=f"engines/{row['engine']['path']}")
        for row in chosen.engines
    )
    (model, decision, golden), *others = [_told(results, row, path) for path, row in told_models(chosen).items()]
    return Draft(
        line=line.name,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        device=DeviceContract(
            name=device.name,
            runtime=device.runtime,
            precision=chosen.precision,
            batch=device.batch,
            fallback=device.fallback,
        ),
        labels=classes.labels,
        good=classes.good,
        decision=decision,
        input=InputContract(
            name=INPUT,
            height=size.height,
            width=size.width,
            channels=size.channels,
            colour="grey" if size.channels == 1 else "rgb",
            resize=image.RESIZE_RULE,
        ),
        output=Output(name=OUTPUT),
        model=model,
        engines=engines,
        golden=golden,
        reference=REFERENCE,
        variants=tuple(Variant(model=m, decision=d, golden=g) for m, d, g in others),
        threads=device.threads,
        budget=_budget(results),
        acceptance={
            "checks": [vars_of(c) for c in results.checks],
            "test": results.judged,
            "parity": results.acceptance["parity"],
            "variant": results.chosen.variant,
        },
        chain={stage.name: {"inputs": stage.digest, "result": stage.result} for stage in results.own_stages},
        provenance=_provenance(results),
    )


def _told(results: Results, row: dict[str, Any], path: str) -> tuple[Model, DecisionRule, Golden]:
    """What the manifest says of one variant, whose file in the bundle is `path`."""
    band = _band(results, row)
    rule: Literal["argmax", "threshold"] = "argmax" if results.line.classes.good is None else "threshold"
    return (
        Model(path=path, precision=row["precision"], opset=results.chosen.gate["opset"]),
        DecisionRule(rule=rule, threshold=row["threshold"], review=band),
        Golden(path=path_of(path), tolerance=TOLERANCE[row["precision"]]),
    )


def _band(results: Results, row: dict[str, Any]) -> Band | None:
    """Where a variant is too near to its own threshold; None on a line that sorts."""
    classes = results.line.classes
    if classes.good is None:
        return None
    scores = reject_scores(scores_of(results, row, results.data.val.images), classes.labels, classes.good)
    return review_band(scores, row["threshold"], results.line.inspection.review_share)


def vars_of(check: Any) -> dict[str, object]:
    """A slotted dataclass as a dict."""
    return {name: getattr(check, name) for name in check.__slots__}


def _budget(results: Results) -> dict[str, object]:
    limits, own = results.line.budget, results.bench[results.chosen.genome]
    measured = {name: value for name, value in own.items() if name not in ("precision", "samples_ms")}
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
    export_folder = results.chosen.export.path
    engines = [row["engine"]["path"] for row in results.chosen.engines]
    files = golden_files(results, root) | {
        **{path: ("model", export_folder / row["path"]) for path, row in told_models(results.chosen).items()},
        **{f"engines/{path}": ("engine", export_folder / path) for path in engines},
        REFERENCE: ("reference", results.inspection.path / REFERENCE),
    }
    destination = folder / BUNDLE
    shutil.rmtree(destination, ignore_errors=True)  # of an attempt that was cut short before the stage was complete
    pack(destination, draft=_draft(results), files=files, key=key, signer_name=key.stem)


def bundle_id_of(bundle: Path) -> str:
    """Short name of a bundle: the first 16 hex digits of its manifest's hash."""
    return sha256((bundle / "manifest.json").read_bytes())[:16]
