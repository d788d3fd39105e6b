import csv
import re
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from factory.spaces.counting import count
from factory.spaces.layers import Concat, GlobalMean
from factory.spaces.nasbench101 import OPS, Cell, NasBench101, Truncate, parse
from factory.spaces.protocol import Size, Space
from tests.naslib import flops

TABLES = Path(__file__).parents[4] / "shared" / "bench"
SPACE: Space = NasBench101()
SEEDS = st.integers(0, 2**32 - 1)
SLOTS = list(combinations(range(7), 2))


def text(names: tuple[str, ...], edges: set[tuple[int, int]]) -> str:
    return "".join("01"[(i, j) in edges] for i in range(7) for j in range(7)) + "," + " ".join(names)


EVERY = ("input", OPS[0], OPS[1], OPS[2], OPS[0], OPS[2], "output")
# Four vertices before the output, which do not divide a width evenly, and one on no path.
WIDE = text(EVERY, {(0, 1), (1, 2), (1, 6), (2, 3), (2, 6), (3, 6), (0, 4), (4, 6), (0, 6), (0, 5)})
EXAMPLES = [WIDE, text(EVERY, {(0, 6), (0, 1)}), text(EVERY, {(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)})]


@st.composite
def cells(draw: st.DrawFn) -> str:
    """Any cell, connected or not, of at most nine edges in all."""
    edges = draw(st.sets(st.sampled_from(SLOTS), max_size=9))
    names = tuple(draw(st.sampled_from(OPS)) for _ in range(5))
    return text(("input", *names, "output"), edges)


def rows() -> list[dict[str, str]]:
    if not TABLES.exists():
        pytest.skip(f"no tables in {TABLES}")
    with (TABLES / "zc_nb101.csv").open() as file:
        return list(csv.DictReader(file))


def paths(edges: frozenset[tuple[int, int]], vertex: int) -> Iterator[list[int]]:
    """Every path from the input to `vertex`."""
    if vertex == 0:
        yield [0]
    for i in range(vertex):
        if (i, vertex) in edges:
            yield from ([*path, vertex] for path in paths(edges, i))


def used(cell: Cell) -> set[tuple[int, int]]:
    return {edge for path in paths(cell.edges, 6) for edge in pairwise(path)}


def widths(edges: set[tuple[int, int]], channels: int) -> dict[int, int]:
    """Width of every inner vertex, from the definition: fair shares, and the maximum of what is led to."""
    finals = sorted(i for i, j in edges if j == 6 and i)
    fair = {v: len(range(index, channels, len(finals))) for index, v in enumerate(finals)}

    def width(vertex: int) -> int:
        return fair[vertex] if vertex in fair else max(width(j) for i, j in edges if i == vertex)

    return {v: width(v) for v in {v for edge in edges for v in edge} - {0, 6}}


def params(arch: str, size: Size) -> int:
    """Trainable parameters by closed form, no network."""
    cell, channels = parse(arch), size.channels or 0
    edges = used(cell)
    total, width_in = 9 * size.image_channels * channels + 2 * channels, channels
    for stack in range(3):
        width = channels * 2**stack
        inner = widths(edges, width)
        for _ in range(size.depth or 0):
            for vertex, c in inner.items():
                total += {OPS[0]: 9 * c * c + 2 * c, OPS[1]: c * c + 2 * c, OPS[2]: 0}[cell.names[vertex]]
                total += (width_in * c + 2 * c) * ((0, vertex) in edges)
            total += (width_in * width + 2 * width) * ((0, 6) in edges)
            width_in = width
    return total + width_in * size.classes + size.classes


def test_params_equal_the_table_of_nas_bench_101() -> None:
    table = rows()
    assert len(table) == 500
    for row in table:
        arch = f"{row['adjacency_7x7']},{row['ops']}"
        assert SPACE.check(arch) == arch
        assert SPACE.connected(arch)
        assert f"{params(arch, SPACE.full) / 1e6:.6g}" == f"{float(row['params']):.6g}"


def test_networks_have_the_params_and_flops_of_the_table() -> None:
    for row in rows()[::50]:
        arch = f"{row['adjacency_7x7']},{row['ops']}"
        assert count(lambda arch=arch: SPACE.network(arch, SPACE.full), 3, 32).params == params(arch, SPACE.full)
        with torch.device("meta"):
            network = SPACE.network(arch, SPACE.full)
        assert f"{flops(network) / 1e6:.6g}" == f"{float(row['flops']):.6g}"


@pytest.mark.parametrize("size", [Size(8, 3, 10), Size(5, 1, 7, 1), Size(6, 2, 3), NasBench101.full])
def test_params_are_the_closed_form(size: Size) -> None:
    rng = np.random.default_rng(0)
    for arch in [*EXAMPLES, *(SPACE.sample(rng) for _ in range(10))]:
        assert count(lambda arch=arch: SPACE.network(arch, size), size.image_channels, 32).params == params(arch, size)


def reference(arch: str, size: Size, weights: Iterator[Tensor], x: Tensor) -> Tensor:
    """The network in one function: batch statistics; a vertex' weights in order of its inputs, the operation last."""
    cell = parse(arch)
    edges = used(cell)

    def conv(x: Tensor) -> Tensor:
        weight = next(weights)
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        return F.batch_norm(x, None, None, next(weights), next(weights), training=True).relu()

    x = conv(x)
    for stack in range(3):
        x = F.max_pool2d(x, 2) if stack else x
        inner = widths(edges, (size.channels or 0) * 2**stack)
        for _ in range(size.depth or 0):
            maps = {0: x}
            for vertex, width in sorted(inner.items()):
                sources = [i for i, j in sorted(edges) if j == vertex]
                total = sum((maps[i][:, :width] if i else conv(x) for i in sources), torch.zeros(()))
                maps[vertex] = F.max_pool2d(total, 3, 1, 1) if cell.names[vertex] == OPS[2] else conv(total)
            outputs = [maps[i] for i, j in sorted(edges) if j == 6 and i]
            total = torch.cat(outputs, 1) if outputs else torch.zeros(())
            x = total + conv(x) if (0, 6) in edges else total
    return F.linear(x.mean((2, 3)), next(weights), next(weights))


def test_a_network_computes_what_the_string_says() -> None:
    rng, size = np.random.default_rng(0), Size(7, 2, 3)
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8)
    truncations = 0
    for arch in [*EXAMPLES, *(SPACE.sample(rng) for _ in range(5))]:
        network = SPACE.network(arch, size).train()
        truncations += sum(isinstance(module, Truncate) for module in network.modules())
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_()
            weights = iter(list(network.parameters()))
            torch.testing.assert_close(network(images), reference(arch, size, weights, images), rtol=1e-3, atol=1e-3)
            assert next(weights, None) is None
    assert truncations


def test_networks_of_any_architecture_give_logits_of_allowed_layers() -> None:
    rng = np.random.default_rng(0)
    allowed = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.Identity, nn.Linear, Concat, GlobalMean, Truncate)
    for arch in [*EXAMPLES, *(SPACE.sample(rng) for _ in range(10))]:
        network = SPACE.network(arch, SPACE.proxy)
        assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)
        leaves = [m for m in network.modules() if not isinstance(m, nn.ModuleList) and not list(m.children())]
        relus = [m for m in leaves if isinstance(m, nn.ReLU)]
        assert not any(m.inplace for m in relus)
        assert all(isinstance(m, allowed) for m in leaves if not isinstance(m, nn.ReLU))


def test_a_truncation_keeps_the_first_channels_of_each_copy() -> None:
    layer, maps = Truncate(2), torch.randn(2, 9, 4, 5).contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer(maps), maps[:, :2])
    layer.copies = 3
    assert torch.equal(layer(maps), maps[:, [0, 1, 3, 4, 6, 7]])


def test_a_network_that_cannot_be_built_is_told_why() -> None:
    for size in (Size(None, 3, 10), Size(8, None, 10), Size(0, 3, 10)):
        with pytest.raises(ValueError, match="needs channels and cells in a stack"):
            SPACE.network(WIDE, size)
    said = "3 channels cannot be divided among 4 vertices before the output: the network needs at least 4"
    with pytest.raises(ValueError, match=said):
        SPACE.network(WIDE, Size(3, 3, 10))
    assert SPACE.network(WIDE, Size(4, 1, 10))(torch.randn(2, 3, 4, 4)).shape == (2, 10)
    with pytest.raises(ValueError, match="no path leads from the input"):
        SPACE.network(text(EVERY, {(0, 1), (2, 6)}), SPACE.proxy)


@given(cells())
def test_every_architecture_prints_and_parses_back(arch: str) -> None:
    assert SPACE.check(arch) == arch == str(parse(arch))
    assert SPACE.check(f" {arch.replace(' ', '  ').replace(',', ', ')}\n") == arch
    assert text(parse(arch).names, set(parse(arch).edges)) == arch


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",", " ", "expected 49 digits 0 or 1 and a comma, found '0"),
        ("0", "", "expected 49 digits 0 or 1 and a comma, found '1"),
        ("0", "2", "expected 49 digits 0 or 1 and a comma, found '2"),
        ("0", "1", "the edge from vertex 0 to 0 does not lead to a later vertex"),
        ("input ", "", "expected 7 names from 'input' to 'output', found 'conv3x3"),
        ("output", "output output", "expected 7 names"),
        ("input", "maxpool3x3", "expected 7 names from 'input' to 'output', found 'maxpool3x3"),
        ("output", "maxpool3x3", "expected 7 names"),
        ("conv1x1-bn-relu", "conv7x7-bn-relu", "'conv7x7-bn-relu' is not an operation: choose one of conv3x3-bn-relu"),
    ],
)
def test_a_string_that_is_no_architecture_is_told_by_its_part(old: str, new: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        SPACE.check(WIDE.replace(old, new, 1))


def test_edges_are_counted_between_input_and_output() -> None:
    nine = {(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3), (0, 6), (2, 6), (3, 6)}
    assert SPACE.check(text(EVERY, nine | {(0, 4), (3, 4), (5, 6)}))
    with pytest.raises(ValueError, match="10 edges between input and output, but the space allows 9"):
        SPACE.check(text(EVERY, nine | {(1, 6)}))
    with pytest.raises(ValueError, match="the edge from vertex 4 to 3 does not lead to a later vertex"):
        SPACE.check(text(EVERY, nine | {(4, 3)}))


@given(cells())
def test_connected_means_a_path(arch: str) -> None:
    assert SPACE.connected(arch) == (next(paths(parse(arch).edges, 6), None) is not None)


def assert_valid(arch: str) -> None:
    assert SPACE.check(arch) == arch
    assert 1 <= len(used(parse(arch))) <= 9


@given(SEEDS)
def test_a_sample_is_of_the_space(seed: int) -> None:
    arch = SPACE.sample(np.random.default_rng(seed))
    assert_valid(arch)
    assert SPACE.sample(np.random.default_rng(seed)) == arch


def test_samples_use_every_edge_and_every_operation() -> None:
    rng = np.random.default_rng(0)
    drawn = [parse(SPACE.sample(rng)) for _ in range(300)]
    assert set().union(*(cell.edges for cell in drawn)) == set(SLOTS)
    assert all({cell.names[vertex] for cell in drawn} == set(OPS) for vertex in range(1, 6))


@given(cells(), SEEDS)
def test_a_mutation_changes_one_choice(arch: str, seed: int) -> None:
    child = SPACE.mutate(arch, np.random.default_rng(seed))
    assert_valid(child)
    one, two = parse(arch), parse(child)
    assert len(one.edges ^ two.edges) + sum(a != b for a, b in zip(one.names, two.names, strict=True)) == 1
    assert SPACE.mutate(arch, np.random.default_rng(seed)) == child


def test_mutations_lead_anywhere() -> None:
    rng, arch = np.random.default_rng(0), WIDE
    sizes, names = set[int](), set[tuple[int, str]]()
    for _ in range(2000):
        arch = SPACE.mutate(arch, rng)
        sizes.add(len(used(parse(arch))))
        names |= set(enumerate(parse(arch).names))
    assert sizes == set(range(1, 10))
    assert len(names) == 2 + 5 * 3


@given(SEEDS)
def test_a_crossover_takes_every_vertex_from_a_parent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = SPACE.sample(rng), SPACE.sample(rng)
    child = SPACE.crossover(a, b, rng)
    assert_valid(child)
    for vertex in range(7):
        one, two, new = (
            (cell.names[vertex], {i for i, j in cell.edges if j == vertex}) for cell in map(parse, (a, b, child))
        )
        assert new in (one, two)


@given(cells(), cells(), SEEDS)
def test_a_crossover_of_unconnected_cells_ends(a: str, b: str, seed: int) -> None:
    child = SPACE.crossover(a, b, np.random.default_rng(seed))
    assert SPACE.connected(child) or not (SPACE.connected(a) or SPACE.connected(b))


def test_a_crossover_takes_from_both() -> None:
    rng = np.random.default_rng(0)
    a, b = SPACE.sample(rng), SPACE.sample(rng)
    assert len({SPACE.crossover(a, b, rng) for _ in range(300)}) > 10
