from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import export.build
from export.build.onnx import ALLOWED_OPS, INPUT, OUTPUT, operations
from export.build.onnx import export as to_onnx
from export.runtime.contract import Contract
from export.runtime.engines import OnnxRunner
from export.runtime.errors import GateError
from factory.spaces.network import build
from factory.spaces.plan import Input, Plan, graph
from factory.spaces.residual import parse, plan
from factory.swapout.collapse import collapse
from factory.swapout.network import Network
from factory.swapout.schedule import Noise, Schedule

MEAN, STD = (0.3, 0.5, 0.6), (0.2, 0.1, 0.25)
EVERY_KIND = "stem_w8_s2-basic_w8_d2_k3_e2_s1-bottle_w16_d2_k5_e2_s2-mb_w16_d2_k3_e3_s1"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def collapsed(channels: int = 3) -> tuple[Plan, Network]:
    """A network with Swapout and batch-norm statistics of its own, collapsed."""
    shape = plan(parse(EVERY_KIND), Input(20, 24, channels), 4)
    torch.manual_seed(0)
    network = build(shape, Noise.swapout(Schedule.linear(1, 0.5)))
    network.train()(torch.randn(16, channels, 20, 24))
    return shape, collapse(network.eval()).float()


@cache
def exported(channels: int = 3) -> bytes:
    return to_onnx(collapsed(channels)[1], MEAN[:channels], STD[:channels], (20, 24, channels))


def runner(data: bytes, channels: int = 3) -> OnnxRunner:
    contract = Contract(input_name=INPUT, output_name=OUTPUT, frame_shape=(20, 24, channels), classes=4)
    return OnnxRunner(data, contract, runtime="onnxruntime-cpu", threads=1)


def frames(count: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 20, 24, channels), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_the_file_computes_what_torch_computes_from_the_cameras_bytes(batch: int, channels: int) -> None:
    images = frames(batch, channels)
    mean, std = (torch.tensor(v[:channels], dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    x: Tensor = (torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255 - mean) / std
    wanted = collapsed(channels)[1](x.float()).numpy()
    found = runner(exported(channels), channels).infer(images)
    assert found.shape == (batch, 4)
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)


def test_the_graph_is_that_of_a_plain_residual_network() -> None:
    model = onnx.load_from_string(exported())
    kinds = Counter(op.kind for op in graph(collapsed()[0]))
    assert set(operations(model)) == set(ALLOWED_OPS)
    assert Counter(operations(model)) == {
        "Cast": 1,
        "Transpose": 1,
        "Sub": 1,
        "Mul": 1,
        "Conv": kinds["conv"],
        "Relu": kinds["relu"],
        "Add": kinds["add"],
        "ReduceMean": 1,
        "Gemm": 1,
    }
    assert operations(model)[:2] == ["Cast", "Transpose"]  # TensorRT transposes no bytes
    assert {s.domain for s in model.opset_import} == {""}


def test_the_interface_is_bytes_of_any_batch_in_and_logits_out() -> None:
    model = onnx.load_from_string(exported())
    (frame,), (logits,) = model.graph.input, model.graph.output
    sizes = [d.dim_value for d in frame.type.tensor_type.shape.dim]
    assert (frame.name, frame.type.tensor_type.elem_type, sizes) == ("frame", onnx.TensorProto.UINT8, [0, 20, 24, 3])
    assert frame.type.tensor_type.shape.dim[0].dim_param
    sizes = [d.dim_value for d in logits.type.tensor_type.shape.dim]
    assert (logits.name, logits.type.tensor_type.elem_type, sizes) == ("logits", onnx.TensorProto.FLOAT, [0, 4])
    onnx.checker.check_model(model, full_check=True)


def test_the_same_weights_give_the_same_bytes() -> None:
    shape, network = collapsed()
    again = build(shape, norm=False)
    again.load_state_dict(network.state_dict())
    torch.manual_seed(7)
    assert to_onnx(again, MEAN, STD, (20, 24, 3)) == exported()


def notes(message: object) -> list[str]:
    """Every documentation string and key of metadata in a message and all it holds."""
    found = []
    for field, value in message.ListFields():  # type: ignore[attr-defined]
        if field.name == "doc_string":
            found.append(value)
        elif field.name == "metadata_props":
            found += [entry.key for entry in value]
        elif field.message_type is not None:
            for part in value if hasattr(value, "__len__") else [value]:
                found += notes(part)
    return found


def test_the_file_says_nothing_of_the_machine_it_was_made_on() -> None:
    model = onnx.load_from_string(exported())
    assert [note for note in notes(model) if note] == []
    folder = export.build.__path__[0]
    for word in (folder, torch.__path__[0], ".py", "/home", "site-packages", "forward"):
        assert word.encode() not in exported()


class Odd(nn.Module):
    """A network with an operation that no collapsed network has."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sigmoid(x).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_graph_that_is_not_plain_is_refused_by_the_operation() -> None:
    with pytest.raises(GateError, match=r"not a plain network: expected only Add, Cast, .* found 1 Sigmoid"):
        to_onnx(Odd(), MEAN, STD, (8, 8, 3))


def test_a_network_that_was_not_collapsed_is_refused() -> None:
    shape = plan(parse(EVERY_KIND), Input(20, 24, 3), 4)
    with pytest.raises(GateError, match=r"Sub, Transpose once, found \d+ Mul"):
        to_onnx(build(shape, Noise.swapout(Schedule.constant(0.5)), norm=False), MEAN, STD, (20, 24, 3))
