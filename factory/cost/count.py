"""Parameters, bytes and FLOPs of a plan, without building it."""

import math
from dataclasses import dataclass
from typing import Final

from factory.spaces.plan import Op, Plan, convolutions, graph

BYTES_PER_PARAMETER = 4  # float32
# What the delivered file holds beside the weights: names, attributes and shapes of nodes and tensors. A little more
# than was ever seen, so that the count bounds the file from above.
BYTES_PER_CONVOLUTION = 500
BYTES_PER_NODE = 95
LATE: Final = 16
BYTES_OF_FRAME = 1200  # the input's normalisation, the head, the graph's own fields


@dataclass(frozen=True, slots=True)
class Cost:
    """What can be counted of a deployed network, and of one image in it.

    Attributes:
        params: parameters.
        size_mb: upper bound of its ONNX file in 10^6 bytes.
        macs: multiply-adds.
        late_macs: those of convolutions whose map has at most a sixteenth of the input's pixels; at least 1.
        positions: values after every ReLU, SWAP-Score's V.
        narrowest: values of the smallest map that a convolution writes.
        convolutions: how many there are.
        width: geometric mean of the channels that they write.
    """

    params: int
    size_mb: float
    macs: int
    late_macs: int
    positions: int
    narrowest: int
    convolutions: int
    width: float


def _macs(op: Op) -> int:
    return 0 if op.conv is None else op.values * (op.conv.channels_in // op.conv.groups) * op.conv.kernel**2


def count(plan: Plan) -> Cost:
    """Count the deployed network, whose convolutions carry a bias and no batch-norm."""
    params = sum(c.channels_in // c.groups * c.channels_out * c.kernel**2 + c.channels_out for c in convolutions(plan))
    params += (plan.features + 1) * plan.classes
    ops = graph(plan)
    convs = [op for op in ops if op.conv is not None]
    few = plan.input.height * plan.input.width / LATE
    nodes = sum(BYTES_PER_NODE if op.conv is None else BYTES_PER_CONVOLUTION for op in ops)
    size = params * BYTES_PER_PARAMETER + nodes + BYTES_OF_FRAME
    return Cost(
        params,
        size / 1e6,
        sum(map(_macs, convs)) + plan.features * plan.classes,
        max(1, sum(_macs(op) for op in convs if op.height * op.width <= few)),
        sum(op.values for op in ops if op.kind == "relu"),
        min(op.values for op in convs),
        len(convs),
        math.exp(sum(math.log(op.channels) for op in convs) / len(convs)),
    )
