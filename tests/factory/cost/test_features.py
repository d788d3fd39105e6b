"""Features against counts made one tap at a time."""

import numpy as np
import pytest

from factory.cost.count import count
from factory.cost.features import CACHED, NAMES, _taps, features
from factory.spaces.plan import Block, Conv, Input, Plan, graph
from factory.spaces.residual import parse, plan
from tests.factory.cost.conftest import drawn


def of(network: Plan) -> dict[str, float]:
    return dict(zip(NAMES, features(network), strict=True))


@pytest.mark.parametrize("size", [2, 3, 7, 16])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_taps_are_those_that_a_walk_along_the_side_meets(size: int, kernel: int, stride: int) -> None:
    out = -(-size // stride)
    windows = [[tap for tap in range(kernel) if 0 <= i * stride - kernel // 2 + tap < size] for i in range(out)]
    cut = sum(len(window) for window in windows if len(window) < kernel)
    used = set().union(*windows)
    assert _taps(size, out, kernel, stride) == (sum(map(len, windows)), cut, max(used) - min(used) + 1)


def test_a_small_network_is_counted_by_hand() -> None:
    stem = Conv(1, 8, 3, 2, 1, relu=True)
    branch = (Conv(8, 24, 1, 1, 1, relu=True), Conv(24, 24, 3, 1, 24, relu=True), Conv(24, 24, 1, 1, 1, relu=False))
    found = of(Plan(Input(8, 8, 1), stem, (Block(branch, False, None, False),), 3))
    assert found["frame"] == 1
    assert found["nodes"] == 4
    assert found["thin"] == pytest.approx((11 * 11 * 16 + 16 * 8 * 32) / 1e6)  # 8 reads lie on the padding's first row
    assert found["pointwise"] == pytest.approx(16 * 32 * 32 / 1e6)
    assert found["depthwise"] == pytest.approx(10 * 10 * 32 / 1e6)
    assert found["spatial"] == 0
    assert found["edge"] == pytest.approx(11 * 2 * 64 / 1e6)  # the first column's window alone is cut
    assert found["values"] == pytest.approx(16 * (16 + 32 + 32 + 32) / 1e6)
    assert found["reordered"] == pytest.approx(16 * 16 / 1e6)
    assert found["weights"] == pytest.approx((16 * 16 * 9 + 16 * 32 + 16 * 32 * 9 + 32 * 32) / 1e6)
    assert found["spatial_streamed"] == found["other_streamed"] == found["added"] == 0


def test_work_is_never_more_than_the_padded_count_and_grows_with_it() -> None:
    plans = drawn(60)
    work = [sum(of(p)[name] for name in ("pointwise", "spatial", "depthwise", "thin")) for p in plans]
    macs = [count(p).macs / 1e6 for p in plans]
    assert np.corrcoef(np.log(work), np.log(macs))[0, 1] > 0.95
    assert all((features(p) >= 0).all() for p in plans)
    assert [of(p)["nodes"] for p in plans] == [sum(op.conv is not None for op in graph(p)) for p in plans]


def test_weights_beyond_the_cache_are_shared_out_among_the_kinds_of_convolution() -> None:
    found = of(plan(parse("stem_w16_s1-basic_w128_d2_k3_e1_s2-mb_w256_d1_k3_e6_s2"), Input(32, 32, 1), 2))
    assert found["spatial_streamed"] > 0 < found["other_streamed"]
    beyond = found["weights"] - CACHED / 1e6
    assert found["spatial_streamed"] + found["other_streamed"] == pytest.approx(beyond)
