import csv
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from factory.spaces.counting import count
from factory.spaces.darts import OPS, Cell, Darts, Edge, parse
from factory.spaces.layers import Concat, GlobalMean, Shifted, Zero
from factory.spaces.protocol import Size, Space
from tests.naslib import flops

TABLES = Path(__file__).parents[4] / "shared" / "bench"
SPACE: Space = Darts()
SEEDS = st.integers(0, 2**32 - 1)
CELL = "sep_conv_3x3:0 skip_connect:1 dil_conv_5x5:2 avg_pool_3x3:0 none:1 max_pool_3x3:3 dil_conv_3x3:4 sep_conv_5x5:4"
EXAMPLE = f"{CELL} | {CELL.replace('none', 'skip_connect')}"


@st.composite
def cells(draw: st.DrawFn) -> Cell:
    """Any cell the table of SWAP's authors may hold: with `none`, and with one input twice."""
    ops = st.sampled_from(["none", "none", *OPS])
    return tuple(Edge(draw(ops), draw(st.integers(0, node - 1))) for node in (2, 3, 4, 5) for _ in range(2))


def text(*parts: Cell) -> str:
    return " | ".join(" ".join(f"{op}:{source}" for op, source in cell) for cell in parts)


def rows(name: str) -> list[dict[str, str]]:
    if not TABLES.exists():
        pytest.skip(f"no tables in {TABLES}")
    with (TABLES / name).open() as file:
        return list(csv.DictReader(file))


def params(arch: str, size: Size) -> int:
    """Trainable parameters by closed form, no network."""
    c, depth = size.channels or 0, size.depth or 0
    alone = depth == 1
    norm = 2 if alone else 0
    older = newer = size.image_channels if alone else 3 * c
    total = 0 if alone else 9 * size.image_channels * newer + 2 * newer
    normal, reduction = parse(arch)
    for index in range(depth):
        halves = index in {depth // 3, 2 * depth // 3}
        c = 2 * c if halves else c
        total += (older + newer) * c + 2 * 2 * c
        for op, source in reduction if halves else normal:
            if "conv" in op:
                one = int(op[-1]) ** 2 * c + c * c + norm * c
                total += 2 * one if op.startswith("sep") else one
            elif op == "skip_connect" and halves and source < 2:
                total += c * c + norm * c
        older, newer = newer, 4 * c
    return total + newer * size.classes + size.classes


def test_params_equal_the_table_of_nas_bench_301() -> None:
    table = rows("zc_nb301.csv")
    assert len(table) == 725
    for row in table:
        arch = SPACE.check(f"{row['normal']} | {row['reduce']}")
        assert f"{params(arch, SPACE.full) / 1e6:.6g}" == f"{float(row['params']):.6g}"


def test_networks_have_the_params_and_flops_of_the_table() -> None:
    for row in rows("zc_nb301.csv")[::240]:
        arch = f"{row['normal']} | {row['reduce']}"
        assert count(lambda arch=arch: SPACE.network(arch, SPACE.full), 3, 32).params == params(arch, SPACE.full)
        with torch.device("meta"):
            network = SPACE.network(arch, SPACE.full)
        assert f"{flops(network, adaptive=81) / 1e6:.6g}" == f"{float(row['flops']):.6g}"


def test_the_proxy_is_the_network_of_swaps_authors() -> None:
    table = rows("darts1000_c10.csv")
    assert len(table) == 1000
    sizes = []
    for row in table:
        assert SPACE.check(row["normal"]) == f"{row['normal']} | {row['reduce']}"
        sizes.append(params(row["normal"], SPACE.proxy))
    assert (round(min(sizes), -1), round(max(sizes), -1)) == (310, 2690)
    counts = [count(lambda row=row: SPACE.network(row["normal"], SPACE.proxy), 3, 32) for row in table[::20]]
    assert [c.params for c in counts] == sizes[::20]
    assert 29_000 < np.mean([c.positions for c in counts]) < 33_000


@pytest.mark.parametrize("size", [Size(3, 1, 10), Size(5, 1, 7, 1), Size(4, 2, 3), Size(8, 5, 10, 1), Darts.full])
def test_params_are_the_closed_form(size: Size) -> None:
    rng = np.random.default_rng(0)
    for arch in [EXAMPLE, SPACE.sample(rng), SPACE.sample(rng)]:
        assert count(lambda arch=arch: SPACE.network(arch, size), size.image_channels, 32).params == params(arch, size)


def reference(arch: str, size: Size, weights: Iterator[Tensor], images: Tensor) -> Tensor:
    """The network in one function: batch statistics, weights in order of stem, cells' inputs, cells' items, head."""
    alone = size.depth == 1

    def norm(x: Tensor, affine: bool) -> Tensor:
        weight, bias = (next(weights), next(weights)) if affine else (None, None)
        return F.batch_norm(x, None, None, weight, bias, training=True)

    def reduced(x: Tensor, affine: bool) -> Tensor:
        x = x.relu()
        halves = [F.conv2d(x[:, :, i:, i:], next(weights), stride=2) for i in (0, 1)]
        return norm(torch.cat(halves, 1), affine)

    def operation(op: str, x: Tensor, stride: int) -> Tensor:
        if op == "none":
            return torch.zeros_like(x[:, :, ::stride, ::stride])
        if op == "skip_connect":
            return x if stride == 1 else reduced(x, alone)
        if "pool" in op:
            pooled = (
                F.max_pool2d(x, 3, stride, 1)
                if op.startswith("max")
                else F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
            )
            return pooled if alone else norm(pooled, False)
        kernel, dilation = int(op[-1]), 2 if op.startswith("dil") else 1
        for step in (stride,) if dilation == 2 else (stride, 1):
            padding = dilation * (kernel - 1) // 2
            x = F.conv2d(x.relu(), next(weights), None, step, padding, dilation, x.shape[1])
            x = norm(F.conv2d(x, next(weights)), alone)
        return x

    older = newer = images if alone else norm(F.conv2d(images, next(weights), padding=1), True)
    halved = False
    for index in range(size.depth or 0):
        halves = index in {(size.depth or 0) // 3, 2 * (size.depth or 0) // 3}
        first = reduced(older, True) if halved else norm(F.conv2d(older.relu(), next(weights)), True)
        maps = [first, norm(F.conv2d(newer.relu(), next(weights)), True)]
        edges = parse(arch)[halves]
        for one, two in zip(edges[::2], edges[1::2], strict=True):
            both = [operation(op, maps[i], 2 if halves and i < 2 else 1) for op, i in (one, two)]
            maps.append(both[0] + both[1])
        older, newer, halved = newer, torch.cat(maps[2:], 1), halves
    return F.linear(newer.mean((2, 3)), next(weights), next(weights))


@pytest.mark.parametrize("size", [Size(3, 1, 10), Size(2, 4, 3), Size(2, 6, 3)])
def test_a_network_computes_what_the_string_says(size: Size) -> None:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    images = torch.randn(4, 3, 16, 16)
    for arch in [EXAMPLE, SPACE.sample(rng), SPACE.sample(rng)]:
        network = SPACE.network(arch, size).train()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_()
            weights = iter(list(network.parameters()))
            torch.testing.assert_close(network(images), reference(arch, size, weights, images), rtol=1e-3, atol=1e-3)
            assert next(weights, None) is None


def test_networks_of_any_architecture_give_logits_of_allowed_layers() -> None:
    rng = np.random.default_rng(0)
    allowed = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.Identity, nn.Linear)
    for arch in [EXAMPLE, *(SPACE.sample(rng) for _ in range(10))]:
        for size in (SPACE.proxy, Size(2, 3, 7)):
            network = SPACE.network(arch, size)
            assert network(torch.randn(2, 3, 16, 16)).shape == (2, size.classes)
            leaves = [m for m in network.modules() if not list(m.children())]
            relus = [m for m in leaves if isinstance(m, nn.ReLU)]
            assert not any(m.inplace for m in relus)
            others = (*allowed, Concat, Zero, Shifted, GlobalMean)
            assert all(isinstance(m, others) for m in leaves if not isinstance(m, nn.ReLU))


@pytest.mark.parametrize("size", [Size(None, 1, 10), Size(3, None, 10), Size(3, 0, 10)])
def test_a_size_without_channels_or_depth_is_refused(size: Size) -> None:
    with pytest.raises(ValueError, match="needs channels and a number of cells"):
        SPACE.network(EXAMPLE, size)


@given(cells(), cells())
def test_every_architecture_prints_and_parses_back(normal: Cell, reduction: Cell) -> None:
    arch = text(normal, reduction)
    assert parse(arch) == (normal, reduction)
    assert SPACE.check(arch) == arch
    assert SPACE.check(f"  {arch.replace(' ', '   ')}\n") == arch
    assert SPACE.check(text(normal)) == text(normal, normal)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("sep_conv_3x3:0 ", "", "normal cell: expected 8 items like 'sep_conv_3x3:0', found 7"),
        ("sep_conv_3x3:0", "sep_conv_7x7:0", "normal cell, item 'sep_conv_7x7:0': 'sep_conv_7x7' is not an operation"),
        ("sep_conv_3x3:0", "sep_conv_3x3:2", "item 'sep_conv_3x3:2': the input of node 2 is one of 0..1"),
        ("sep_conv_5x5:4", "sep_conv_5x5:5", "item 'sep_conv_5x5:5': the input of node 5 is one of 0..4"),
        ("sep_conv_5x5:4", "sep_conv_5x5:-1", "the input of node 5"),
        ("sep_conv_5x5:4", "sep_conv_5x5:04", "the input of node 5"),
        ("sep_conv_5x5:4", "sep_conv_5x5", "the input of node 5"),
        ("sep_conv_5x5:4", "sep_conv_5x5:4:1", "the input of node 5"),
        ("sep_conv_5x5:4", "sep_conv_5x5:4 | | ", "expected 'NORMAL | REDUCE', found 4 cells"),
        ("sep_conv_5x5:4 |", "sep_conv_5x5:4 none:0 |", "normal cell: expected 8 items"),
    ],
)
def test_a_string_that_is_no_architecture_is_told_by_its_part(old: str, new: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        SPACE.check(EXAMPLE.replace(old, new, 1))


def test_an_error_in_the_reduction_cell_says_so() -> None:
    for wrong in (f"{CELL} | {CELL} none:0", f"{CELL} |", f"{CELL} | {CELL.replace('none', 'nona')}"):
        with pytest.raises(ValueError, match="reduction cell"):
            SPACE.check(wrong)


def paths(cell: Cell, node: int) -> Iterator[list[int]]:
    """Every path from an input to `node`; node 6 is the concatenation."""
    if node < 2:
        yield [node]
        return
    sources = (2, 3, 4, 5) if node == 6 else [i for op, i in cell[2 * node - 4 : 2 * node - 2] if op != "none"]
    for source in sources:
        for path in paths(cell, source):
            yield [*path, node]


@given(cells(), cells())
def test_connected_means_a_path_through_both_cells(normal: Cell, reduction: Cell) -> None:
    expected = all(next(paths(cell, 6), None) is not None for cell in (normal, reduction))
    assert SPACE.connected(text(normal, reduction)) == expected


def test_unconnected_networks_ignore_the_image() -> None:
    torch.manual_seed(0)
    later = "sep_conv_3x3:2 skip_connect:2 max_pool_3x3:3 skip_connect:2 sep_conv_3x3:4 skip_connect:3"
    images = torch.randn(2, 3, 16, 16)
    for first, depends in (("none:0 none:1", False), ("none:0 skip_connect:1", True)):
        arch = SPACE.check(f"{first} {later}")
        assert SPACE.connected(arch) == depends
        for size in (SPACE.proxy, Size(2, 5, 10)):
            one, two = SPACE.network(arch, size)(images)
            assert torch.equal(one, two) != depends
    assert not SPACE.connected(f"{CELL} | none:0 none:1 {later}")
    assert not SPACE.connected(f"none:0 none:1 {later} | {CELL}")


def nodes(arch: str) -> list[tuple[Edge, ...]]:
    return [cell[i : i + 2] for cell in parse(arch) for i in range(0, 8, 2)]


@given(SEEDS)
def test_a_sample_is_of_the_space(seed: int) -> None:
    arch = SPACE.sample(np.random.default_rng(seed))
    assert SPACE.check(arch) == arch
    assert SPACE.connected(arch)
    assert all(one.input != two.input and {one.op, two.op} <= set(OPS) for one, two in nodes(arch))
    assert SPACE.sample(np.random.default_rng(seed)) == arch


def test_samples_use_every_operation_on_every_input_of_every_item() -> None:
    rng = np.random.default_rng(0)
    seen = {(i, edge) for _ in range(1500) for i, edge in enumerate(sum(parse(SPACE.sample(rng)), ()))}
    assert len(seen) == 2 * 2 * len(OPS) * (2 + 3 + 4 + 5)


@given(cells(), cells(), SEEDS)
def test_a_mutation_changes_one_choice(normal: Cell, reduction: Cell, seed: int) -> None:
    arch = text(normal, reduction)
    child = SPACE.mutate(arch, np.random.default_rng(seed))
    assert SPACE.check(child) == child != arch
    pairs = list(zip(sum(parse(arch), ()), sum(parse(child), ()), strict=True))
    changed = [(old, new) for old, new in pairs if old != new]
    assert len(changed) == 1
    old, new = changed[0]
    assert (old.op == new.op) != (old.input == new.input)
    assert old.op == new.op or new.op in OPS
    if old.input != new.input:
        assert any(new in node and node[0].input != node[1].input for node in nodes(child))


def test_mutations_lead_anywhere() -> None:
    rng, seen, arch = np.random.default_rng(0), set[tuple[int, Edge]](), EXAMPLE
    visited = [arch]
    for _ in range(4000):
        arch = SPACE.mutate(arch, rng)
        visited.append(arch)
        seen |= set(enumerate(sum(parse(arch), ())))
    assert all(one != two for one, two in pairwise(visited))
    # Node 2 has only its two inputs, each in the place the first architecture gave it.
    assert len({s for s in seen if s[1].op != "none"}) == 2 * len(OPS) * (2 * (3 + 4 + 5) + 2)


@given(cells(), cells(), cells(), cells(), SEEDS)
def test_a_crossover_takes_every_node_from_a_parent(a: Cell, b: Cell, c: Cell, d: Cell, seed: int) -> None:
    one, two = text(a, b), text(c, d)
    child = SPACE.crossover(one, two, np.random.default_rng(seed))
    assert SPACE.check(child) == child
    assert all(node in parents for node, *parents in zip(nodes(child), nodes(one), nodes(two), strict=True))


def test_a_crossover_takes_from_both() -> None:
    rng = np.random.default_rng(0)
    one, two = SPACE.sample(rng), SPACE.sample(rng)
    assert len({SPACE.crossover(one, two, rng) for _ in range(3000)}) > 200
