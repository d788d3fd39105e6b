"""A station's folder with bundles installed, and networks that fail in ways a golden picture does not show."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.runtime.install.install import install
from export.runtime.install.state import Version
from export.runtime.keys import load_trusted
from export.runtime.live.inspector import Inspector

Install = Callable[..., Version]


def _added(model: bytes, nodes: list[Any], constants: list[TensorProto]) -> bytes:
    found = onnx.load_model_from_string(model)
    last = next(node for node in found.graph.node if node.output[0] == "logits")
    last.output[0] = "plain"
    found.graph.node.extend(nodes)
    found.graph.initializer.extend(constants)
    onnx.checker.check_model(found)
    return found.SerializeToString()


def failing_from(grey: int, tiny: SimpleNamespace) -> bytes:
    """A network whose runtime raises an error for pictures at least as bright, on an index out of its range."""
    normal = (grey - 0.5 - 128) / 64
    nodes = [
        helper.make_node("ReduceMax", ["normal"], ["brightest"], keepdims=0),
        helper.make_node("Greater", ["brightest", "limit"], ["too_bright"]),
        helper.make_node("Cast", ["too_bright"], ["index"], to=TensorProto.INT64),
        helper.make_node("Mul", ["index", "far"], ["place"]),
        helper.make_node("Gather", ["zeros", "place"], ["zero"], axis=0),
        helper.make_node("Add", ["plain", "zero"], ["logits"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(normal, np.float32), "limit"),
        numpy_helper.from_array(np.array(99, np.int64), "far"),
        numpy_helper.from_array(np.zeros(1, np.float32), "zeros"),
    ]
    return _added(tiny.network(), nodes, constants)


def slow(tiny: SimpleNamespace) -> bytes:
    """A network that multiplies large matrices before it says what the plain one does."""
    side = 700
    nodes = [
        helper.make_node("ReduceMax", ["normal"], ["m0"], keepdims=0),
        helper.make_node("Mul", ["big", "m0"], ["b0"]),
        helper.make_node("MatMul", ["b0", "big"], ["b1"]),
        helper.make_node("MatMul", ["b1", "big"], ["b2"]),
        helper.make_node("ReduceMax", ["b2"], ["b3"], keepdims=0),
        helper.make_node("Mul", ["b3", "nothing"], ["b4"]),
        helper.make_node("Add", ["plain", "b4"], ["logits"]),
    ]
    constants = [
        numpy_helper.from_array(np.full((side, side), 1e-3, np.float32), "big"),
        numpy_helper.from_array(np.array(0, np.float32), "nothing"),
    ]
    return _added(tiny.network(), nodes, constants)


@pytest.fixture
def networks(tiny: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(
        failing_from=lambda grey: failing_from(grey, tiny),
        slow=lambda: slow(tiny),
        biased=lambda bias: tiny.network(bias=bias),
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def put(make_bundle: Any, trust: list[Path], store: Path, tmp_path: Path) -> Install:
    """Install a bundle made as asked; its test in a process of its own has tests of its own."""

    def make(**asked: Any) -> Version:
        folder = make_bundle(**asked)
        done = install(
            folder, load_trusted(trust), store, allow_older=True, say=lambda _: None, test=lambda *_: {}
        )  # fmt: skip
        folder.rename(tmp_path / f"source-{done.bundle}")
        return done

    return make


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def opened(store: Path, trust: list[Path], said: list[str]) -> Iterator[Callable[[], Inspector]]:
    """Open an inspector of what is installed; closed behind the test."""
    inspectors: list[Inspector] = []

    def make() -> Inspector:
        inspectors.append(Inspector.open(store, lambda: load_trusted(trust), said.append))
        return inspectors[-1]

    yield make
    for inspector in inspectors:
        inspector.close()
