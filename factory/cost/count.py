"""Parameters, bytes and FLOPs of a plan, without building it."""

from dataclasses import dataclass

from factory.spaces.plan import Plan, convolutions, graph

BYTES_PER_PARAMETER = 4  # float32
# What the delivered file holds beside the weights: names, attributes and shapes of nodes and tensors. A little more
# than was ever seen, so that the count bounds the file from above.
BYTES_PER_CONVOLUTION = 500
BYTES_PER_NODE = 95
BYTES_OF_FRAME = 1200  # the input's normalisation, the head, the graph's own fields


@dataclass(frozen=True, slots=True)
class Cost:
    """Parameters of the deployed network; an upper bound of its ONNX file in MB (10^6 bytes); MACs of one image."""

    params: int
    size_mb: float
    macs: int


def count(plan: Plan) -> Cost:
    """Count the deployed network, whose convolutions carry a bias and no batch-norm."""
    params = sum(c.channels_in // c.groups * c.channels_out * c.kernel**2 + c.channels_out for c in convolutions(plan))
    params += (plan.features + 1) * plan.classes
    ops = graph(plan)
    macs = sum(
        op.height * op.width * op.channels * (op.conv.channels_in // op.conv.groups) * op.conv.kernel**2
        for op in ops
        if op.conv is not None
    )
    nodes = sum(BYTES_PER_NODE if op.conv is None else BYTES_PER_CONVOLUTION for op in ops)
    size = params * BYTES_PER_PARAMETER + nodes + BYTES_OF_FRAME
    return Cost(params, size / 1e6, macs + plan.features * plan.classes)
