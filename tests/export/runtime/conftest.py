"""A tiny real bundle: a network that calls bright pictures defects, its golden pictures, a real key."""

import json
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from export.build.pack import golden_scores, pack
from export.runtime.contract import Contract
from export.runtime.decision import softmax
from export.runtime.drift.novelty import Novelty
from export.runtime.drift.reference import Familiar, Reference, Values
from export.runtime.drift.statistics import Gauge
from export.runtime.engines import OnnxRunner
from export.runtime.image import RESIZE_RULE, decode, fit
from export.runtime.keys import load_private, new_key, public_path
from export.runtime.manifest import (
    DecisionRule,
    DeviceContract,
    Draft,
    Engine,
    Golden,
    Input,
    Model,
    Output,
    canonical_bytes,
)
from export.runtime.trust import sign_bundle

PROJECT = Path(__file__).parents[3]
SIZE = 8
LABELS = ("good", "scratch", "dent")
THRESHOLD = 0.4
GREYS = {"golden/000.png": 40, "golden/001.png": 200, "golden/002.png": 125}


def picture(grey: int, size: int = SIZE) -> bytes:
    buffer = BytesIO()
    Image.new("L", (size, size), grey).save(buffer, "PNG")
    return buffer.getvalue()


def network(*, batch: int | str = "N", bias: tuple[float, float, float] = (0.0, -0.5, -0.7)) -> bytes:
    """uint8 (N, 8, 8, 1) to logits (N, 3): the brighter, the less good."""

    def constant(name: str, value: Any, dtype: Any = np.float32) -> TensorProto:
        return numpy_helper.from_array(np.array(value, dtype=dtype), name)

    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["normal"]),
        helper.make_node("ReduceMean", ["normal", "axes"], ["pooled"], keepdims=0),
        helper.make_node("Gemm", ["pooled", "weight", "bias"], ["logits"]),
    ]
    constants = [
        constant("mean", 128),
        constant("scale", 1 / 64),
        constant("axes", [2, 3], np.int64),
        constant("weight", [[-2, 2, 1]]),
        constant("bias", bias),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, SIZE, SIZE, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(LABELS)])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def runner(model: bytes, **changes: Any) -> OnnxRunner:
    runs_in = {name: changes.pop(name, usual) for name, usual in (("runtime", "onnxruntime-cpu"), ("threads", 1))}
    usual = {"input_name": "image", "output_name": "logits", "frame_shape": (SIZE, SIZE, 1), "classes": len(LABELS)}
    return OnnxRunner(model, Contract(**(usual | changes)), **runs_in)


def draft(**changes: Any) -> Draft:
    known: dict[str, Any] = {
        "line": "cells-3",
        "created": "2025-01-31T12:00:00Z",
        "device": DeviceContract(name="bench", runtime="onnxruntime-cpu", precision="fp32"),
        "labels": LABELS,
        "good": "good",
        "decision": DecisionRule(rule="threshold", threshold=THRESHOLD),
        "input": Input(name="image", height=SIZE, width=SIZE, channels=1, colour="grey", resize=RESIZE_RULE),
        "output": Output(name="logits"),
        "model": Model(path="model.onnx", precision="fp32", opset=18),
        "engines": (),
        "golden": Golden(path="golden/scores.json", tolerance=1e-4),
        "reference": "reference.json",
        "threads": 1,
        "budget": {"ms": 5.0},
        "acceptance": {"escapes": 0},
        "chain": {"best": None},
        "provenance": {"seeds": [1, 2]},
    }
    return Draft(**(known | changes))


def engine(**changes: Any) -> Engine:
    known: dict[str, Any] = {
        "path": "e.plan",
        "runtime": "tensorrt",
        "precision": "fp16",
        "version": "10.16.1.11",
        "targets": ("8.6",),
        "batch": (1, 1, 16),
        "hardware": "same-capability",
        "version_compatible": False,
        "model_sha256": "0" * 64,
    }
    return Engine(**(known | changes))


def scored(model: bytes, asked: Draft) -> bytes:
    """The golden scores as the workstation makes them, by the station's own runtime."""
    frames = np.stack([fit(decode(picture(grey)), SIZE, SIZE, 1) for grey in GREYS.values()])
    scores = softmax(runner(model).infer(frames))
    threshold = asked.decision.threshold
    return golden_scores(list(GREYS), scores, labels=asked.labels, good=asked.good, threshold=threshold)


def reference(limit: float = 1e6) -> Reference:
    """Of grey pictures, all alike: what is unlike them is far away, and only a limit as low tells so."""
    gauge = Gauge(SIZE, SIZE, 1)
    rows = [gauge.measure(fit(decode(picture(grey)), SIZE, SIZE, 1)) for grey in range(0, 256, 5)]
    vectors = np.array([row.vector for row in rows])
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0) + 1
    familiar = Familiar(
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        centres=tuple(map(tuple, ((vectors - mean) / scale)[::5].tolist())),
        limit=limit,
    )
    novelty = sorted(Novelty(familiar).of(row) for row in rows)
    brightness = sorted(row.brightness for row in rows)
    values = Values(
        score=tuple(np.linspace(0, 1, len(rows)).tolist()),
        brightness=tuple(brightness),
        sharpness=tuple(row.sharpness for row in rows),
        novelty=tuple(novelty),
    )
    return Reference(familiar=familiar, values=values)


def files_of(model: bytes, asked: Draft, golden: bytes | None = None) -> dict[str, Any]:
    """The files of a tiny bundle, as ``pack`` takes them."""
    files: dict[str, Any] = {path: ("golden-frame", picture(grey)) for path, grey in GREYS.items()}
    files["golden/scores.json"] = ("golden-scores", golden or scored(model, asked))
    files["model.onnx"] = ("model", model)
    files["reference.json"] = ("reference", canonical_bytes(reference()))
    files["report/report.html"] = ("report", b"<p>fine</p>")
    return files


class MakeBundle(Protocol):
    def __call__(
        self,
        *,
        model: bytes | None = None,
        asked: Draft | None = None,
        golden: bytes | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Path: ...


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """What the tests need of this file's functions: test files cannot import one another."""
    return SimpleNamespace(
        picture=picture,
        network=network,
        runner=runner,
        draft=draft,
        engine=engine,
        scored=scored,
        reference=reference,
        labels=LABELS,
        size=SIZE,
    )


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python code with the project importable, in a process of its own."""

    def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)

    return run


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "workstation"
    new_key(path)
    return path


@pytest.fixture(scope="session")
def trust(key: Path) -> list[Path]:
    return [public_path(key)]


@pytest.fixture
def make_bundle(tmp_path: Path, key: Path) -> MakeBundle:
    def make(
        *,
        model: bytes | None = None,
        asked: Draft | None = None,
        golden: bytes | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Path:
        model, asked = model or network(), asked or draft()
        files = files_of(model, asked, golden)
        return pack(tmp_path / "bundle", draft=asked, files=files | (extra or {}), key=key, signer_name="W1")

    return make


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Path:
    return make_bundle()


@pytest.fixture
def resign(key: Path) -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """Change a bundle's manifest and sign it anew with the trusted key, as a careless signer might."""

    def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        edit(manifest)
        (folder / "manifest.json").write_bytes(canonical_bytes(manifest))
        sign_bundle(folder, load_private(key))

    return change
