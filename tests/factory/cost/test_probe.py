"""The probe graph and the size estimate, against the file that is really delivered."""

from collections import Counter
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.build.onnx import export, operations
from factory.cost.count import count
from factory.cost.probe import probe
from factory.spaces.network import build
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan

PLANS = {
    "small": plan(parse("stem_w8_s4-basic_w8_d1_k3_e1_s1-mb_w16_d1_k3_e2_s2"), Input(32, 32, 1), 2),
    "every kind": plan(
        parse("stem_w16_s2-basic_w24_d2_k3_e2_s1-bottle_w48_d2_k5_e4_s2-mb_w48_d2_k3_e3_s1"), Input(24, 40, 3), 6
    ),
    "deep": plan(parse("stem_w8_s1" + "-bottle_w8_d4_k3_e2_s1" * 2 + "-mb_w8_d4_k3_e2_s1" * 2), Input(128, 96, 3), 10),
    "wide": plan(parse("stem_w32_s2-basic_w192_d1_k3_e1_s2-mb_w256_d1_k5_e6_s2"), Input(32, 32, 1), 3),
}


@cache
def delivered(name: str) -> bytes:
    shape = PLANS[name]
    picture = shape.input
    one = [0.5] * picture.channels
    return export(build(shape, norm=False), one, one, (picture.height, picture.width, picture.channels))


def interface(model: onnx.ModelProto) -> list[tuple[str, int, list[int]]]:
    """Name, type and sizes of the input and the output; 0 is the batch."""
    return [
        (v.name, v.type.tensor_type.elem_type, [d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in (*model.graph.input, *model.graph.output)
    ]


@pytest.mark.parametrize("name", PLANS)
def test_the_probe_has_the_nodes_of_the_delivered_graph(name: str) -> None:
    own, real = (onnx.load_from_string(data) for data in (probe(PLANS[name]), delivered(name)))
    onnx.checker.check_model(own, full_check=True)
    assert Counter(operations(own)) == Counter(operations(real))
    assert interface(own) == interface(real)
    assert own.opset_import == real.opset_import


def attributes(data: bytes) -> Counter[tuple[object, ...]]:
    """Every convolution by its weight's shape, strides, pads and group."""
    model = onnx.load_from_string(data)
    shapes = {w.name: tuple(w.dims) for w in model.graph.initializer}
    found: Counter[tuple[object, ...]] = Counter()
    for node in model.graph.node:
        if node.op_type == "Conv":
            given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            found[shapes[node.input[1]], tuple(given["strides"]), tuple(given["pads"]), given["group"]] += 1
    return found


@pytest.mark.parametrize("name", PLANS)
def test_the_probe_has_the_convolutions_of_the_delivered_graph(name: str) -> None:
    assert attributes(probe(PLANS[name])) == attributes(delivered(name))


@pytest.mark.parametrize("name", PLANS)
def test_the_counted_size_bounds_the_delivered_file_closely(name: str) -> None:
    estimate, real = count(PLANS[name]).size_mb * 1e6, len(delivered(name))
    assert real <= estimate <= real + max(0.05 * real, 3000)


def test_the_probe_is_the_same_every_time_and_its_weights_are_numbers() -> None:
    data = probe(PLANS["small"])
    assert probe(PLANS["small"]) == data
    for weight in onnx.load_from_string(data).graph.initializer:
        assert np.isfinite(numpy_helper.to_array(weight)).all()


def test_the_probe_holds_the_parameters_counted() -> None:
    shape = PLANS["every kind"]
    model = onnx.load_from_string(probe(shape))
    sizes = [int(np.prod(w.dims)) for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT]
    assert sum(sizes) == count(shape).params + 2 * shape.input.channels
