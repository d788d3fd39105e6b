"""What the latency of a network is a sum of: work, traffic and calls, counted for a device's vector units and caches.

Four facts about how convolutions run decide the choice (each was seen in a profile of ONNX Runtime, and each of them
halved the errors that were left): channels are padded to the lanes of a vector; taps that fall on the padding of a
picture are skipped; columns at a picture's edge, whose windows are cut, are computed one at a time and not many at
once; and weights that no longer fit a core's cache come from memory again for every frame.
"""

from collections.abc import Iterator
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from factory.spaces.plan import Op, Plan, graph

LANES: Final = 16  # float32 lanes of the widest vector unit
TILE: Final = 4 * LANES  # output channels computed together where columns are computed one at a time
CACHED: Final = 0.25e6  # weights (1 MB of float32) that a core's cache is sure to keep from frame to frame

NAMES: Final = (
    "frame",  # 1
    "nodes",  # convolutions
    "pointwise",  # 10^6 padded MACs of 1 x 1 convolutions
    "spatial",  # of larger ones
    "depthwise",
    "thin",  # of those that read fewer channels than lanes, such as the stem
    "edge",  # of columns computed one at a time
    "values",  # 10^6 values written
    "added",  # 10^6 values of residual sums
    "reordered",  # 10^6 values of maps with fewer channels than lanes, which are laid out anew
    "weights",  # 10^6 padded weights in use
    "spatial_streamed",  # 10^6 weights beyond the cache, the share of spatial convolutions
    "other_streamed",  # and of all others
)


def _padded(channels: int, lanes: int = LANES) -> int:
    return -(-channels // lanes) * lanes


@cache
def _taps(size_in: int, size_out: int, kernel: int, stride: int) -> tuple[int, int, int]:
    """Along one side: taps on the picture over all outputs, those of cut windows, and taps that any output uses."""
    first = np.arange(size_out) * stride - kernel // 2
    low, high = np.maximum(first, 0), np.minimum(first + kernel, size_in)
    taps = high - low
    used = (high - first).max() - (low - first).min()
    return int(taps.sum()), int(taps[taps < kernel].sum()), int(used)


def _conv_terms(op: Op, height: int, width: int) -> Iterator[tuple[str, float]]:
    """Terms of one convolution that reads a map of `height` x `width` pixels."""
    conv = op.conv
    assert conv is not None
    rows, _, used_rows = _taps(height, op.height, conv.kernel, conv.stride)
    columns, cut, used_columns = _taps(width, op.width, conv.kernel, conv.stride)
    read, written = _padded(conv.channels_in), _padded(conv.channels_out)
    depthwise, thin = conv.groups > 1, conv.channels_in < LANES
    depth = 1 if depthwise else conv.channels_in if thin else read
    kind = "depthwise" if depthwise else "thin" if thin else "spatial" if conv.kernel > 1 else "pointwise"
    yield kind, rows * columns * depth * written
    if not depthwise:
        yield "edge", rows * cut * depth * _padded(conv.channels_out, TILE)
    yield "values", op.height * op.width * written
    if conv.channels_out < LANES:
        yield "reordered", op.height * op.width * written
    weights = (LANES if depthwise else read) * written * used_rows * used_columns
    yield "weights", weights
    yield "spatial_streamed" if conv.kernel > 1 and not depthwise else "other_streamed", weights


def features(plan: Plan) -> NDArray[np.float64]:
    """The terms that latency is a non-negative sum of, float64 (len(NAMES),), in the order and units of `NAMES`."""
    ops = graph(plan)
    terms = dict.fromkeys(NAMES, 0.0)
    for op in ops:
        if op.kind == "add":
            terms["added"] += op.height * op.width * _padded(op.channels)
        if op.conv is not None:
            source = op.inputs[0]
            read = plan.input if source < 0 else ops[source]
            terms["nodes"] += 1e6
            for name, amount in _conv_terms(op, read.height, read.width):
                terms[name] += amount
    beyond = max(0.0, 1 - CACHED / terms["weights"])
    terms["spatial_streamed"] *= beyond
    terms["other_streamed"] *= beyond
    terms["frame"] = 1e6
    return np.array(list(terms.values())) / 1e6
