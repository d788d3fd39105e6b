"""ONNX of a collapsed network: the camera's uint8 frame in, logits out, normalisation inside the graph."""

import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Final

import onnx
import torch
from torch import Tensor, nn

from export.runtime.errors import GateError

INPUT: Final = "frame"
OUTPUT: Final = "logits"
OPSET: Final = 20
FRAME_OPS: Final = frozenset({"Cast", "Transpose", "Sub", "Mul"})  # once each, for the input
ALLOWED_OPS: Final = FRAME_OPS | {"Conv", "Relu", "Add", "ReduceMean", "Gemm"}


class FrameNetwork(nn.Module):
    """uint8 frames (N, H, W, C) to logits: cast, layout, (x - mean) / std, network."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.pixel_mean: Tensor
        self.pixel_scale: Tensor
        # The exporter takes a buffer named "mean" for its own constant of that name.
        self.register_buffer("pixel_mean", torch.tensor([255 * m for m in mean])[None, :, None, None])
        self.register_buffer("pixel_scale", torch.tensor([1 / (255 * s) for s in std])[None, :, None, None])

    def forward(self, frame: Tensor) -> Tensor:
        """uint8 (N, H, W, C) to float32 (N, classes); the cast comes first, TensorRT transposes no bytes."""
        x = frame.to(torch.float32).permute(0, 3, 1, 2)
        return self.network((x - self.pixel_mean) * self.pixel_scale)  # type: ignore[no-any-return]


def convert(
    network: nn.Module, mean: Sequence[float], std: Sequence[float], shape: tuple[int, int, int]
) -> onnx.ModelProto:
    """Return the ONNX model of any network behind the camera's frame, with dynamic batch.

    Args:
        network: from normalised (N, C, H, W) to logits.
        mean: of the training pixels, a value a channel, in [0, 1].
        std: of the training pixels, likewise.
        shape: height, width, channels of the frame.

    Raises:
        GateError: if torch gives no program.
    """
    module = FrameNetwork(network.float().cpu().eval(), mean, std).eval()
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise GateError("torch exported no program", fix="report this with the network's genome")
    return program.model_proto


def export(network: nn.Module, mean: Sequence[float], std: Sequence[float], shape: tuple[int, int, int]) -> bytes:
    """Return the serialised model of a collapsed network, the same bytes for the same weights.

    Takes what `convert` takes.

    Raises:
        GateError: if the graph holds an operation a collapsed network must not have.
    """
    return _strip(convert(network, mean, std, shape))


def _strip(model: onnx.ModelProto) -> bytes:
    """Drop what the exporter notes about its run (source paths, stack traces): it is of no use at a station."""
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    found = Counter(operations(model))
    extra = sorted(op for op, count in found.items() if op not in ALLOWED_OPS or (op in FRAME_OPS and count > 1))
    if extra:
        raise GateError(
            "the exported graph is not a plain network",
            expected=f"only {', '.join(sorted(ALLOWED_OPS))}; {', '.join(sorted(FRAME_OPS))} once",
            found=", ".join(f"{found[op]} {op}" for op in extra),
            fix="report this with the network's genome",
        )
    return bytes(model.SerializeToString(deterministic=True))


def operations(model: onnx.ModelProto) -> list[str]:
    """The operation of every node, in order."""
    return [node.op_type for node in model.graph.node]
