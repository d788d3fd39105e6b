"""Parameters, bytes and FLOPs of a plan, without building it."""

from dataclasses import dataclass

from factory.spaces.plan import Plan, convolutions, graph

BYTES_PER_PARAMETER = 4  # float32
# Name, attributes, shape and the name of its tensors: what one node of the delivered file takes beside its weights.
BYTES_PER_NODE = 250


@dataclass(frozen=True, slots=True)
class Cost:
    """Parameters of the deployed network; size of its ONNX file in MB (10^6 bytes); MACs of one image."""

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
    size = params * BYTES_PER_PARAMETER + len(ops) * BYTES_PER_NODE
    return Cost(params, size / 1e6, macs + plan.features * plan.classes)
