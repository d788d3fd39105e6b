import csv
import re
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from factory.spaces.counting import count
from factory.spaces.nasbench201 import EDGES, OPERATIONS, Cell, NasBench201, relu_conv_bn
from factory.spaces.protocol import Size, Space

SPACE = NasBench201()
EXAMPLE = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|none~2|"
PATHS = ((0, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2, 3))
SEEDS = st.integers(0, 2**32 - 1)


def text(operations: tuple[str, ...]) -> str:
    a, b, c, d, e, f = operations
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def operations(arch: str) -> list[str]:
    return re.findall(r"(\w+)~", arch)


ARCHS = st.tuples(*[st.sampled_from(OPERATIONS)] * 6).map(text)


def params(arch: str, size: Size) -> int:
    """Trainable parameters in closed form."""
    c, depth = size.channels, size.depth
    assert c is not None and depth is not None
    kernels = [{"nor_conv_1x1": 1, "nor_conv_3x3": 9}[op] for op in operations(arch) if op.startswith("nor_conv")]
    total = 9 * size.image_channels * c + 2 * c
    for width in (c, 2 * c, 4 * c):
        total += depth * sum(k * width**2 + 2 * width for k in kernels)
    for width in (c, 2 * c):
        total += (18 + 36 + 2) * width**2 + 8 * width
    return total + 8 * c + (4 * c + 1) * size.classes


def path_exists(arch: str) -> bool:
    of_edge = dict(zip(EDGES, operations(arch), strict=True))
    return any(all(of_edge[edge] != "none" for edge in pairwise(path)) for path in PATHS)


def alive(network: nn.Module) -> nn.Module:
    """As is, but with weights that carry an image through any depth."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return network.double().eval()


def table() -> list[dict[str, str]]:
    path = Path(__file__).parents[4] / "shared" / "bench" / "nb201_dev.csv"
    if not path.exists():
        pytest.skip("no benchmark tables beside the checkout")
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_is_a_space() -> None:
    space: Space = SPACE
    assert (space.name, space.full, space.proxy) == ("nasbench201", Size(16, 5, 10), Size(3, 5, 10))


@given(ARCHS)
def test_every_architecture_is_its_own_canonical_form(arch: str) -> None:
    assert SPACE.check(arch) == arch
    assert SPACE.check(f" {arch}\n") == arch


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("+|skip_connect~0|nor_conv_1x1~1|none~2|", "", "expected 3 nodes joined by '+', found 2"),
        ("avg_pool_3x3", "avg_pool_5x5", "operation 'avg_pool_5x5' of '|none~0|avg_pool_5x5~1|' is not in the space"),
        ("nor_conv_1x1", "", "operation '' of '|skip_connect~0|~1|none~2|' is not in the space: choose one of ('none'"),
        ("|nor_conv_3x3~0|", "", "expected a node like '|op~0|', found ''"),
        ("|nor_conv_3x3~0|", "|", "expected a node like '|op~0|', found '|'"),
        ("|nor_conv_3x3~0|", "nor_conv_3x3~0", "expected a node like '|op~0|', found 'nor_conv_3x3~0'"),
        ("avg_pool_3x3~1", "avg_pool_3x3~0", "expected a node like '|op~0|op~1|', found '|none~0|avg_pool_3x3~0|'"),
        ("|none~2|", "|", "expected a node like '|op~0|op~1|op~2|', found '|skip_connect~0|nor_conv_1x1~1|'"),
        ("|none~2|", "|none|", "expected a node like '|op~0|op~1|op~2|'"),
    ],
)
def test_a_string_that_is_no_architecture_is_told_by_its_part(old: str, new: str, said: str) -> None:
    assert EXAMPLE.count(old) == 1
    broken = EXAMPLE.replace(old, new)
    for refuses in (SPACE.check, SPACE.connected, lambda arch: SPACE.network(arch, SPACE.proxy)):
        with pytest.raises(ValueError, match=re.escape(said)):
            refuses(broken)


@given(st.text(alphabet="|+~012nonesk", max_size=40))
def test_no_other_text_is_read_as_an_architecture(arch: str) -> None:
    with pytest.raises(ValueError, match=r"expected|not in the space"):
        SPACE.check(arch)


def test_samples_use_every_operation_on_every_edge() -> None:
    rng = np.random.default_rng(0)
    drawn = [SPACE.sample(rng) for _ in range(300)]
    assert all(SPACE.check(arch) == arch for arch in drawn)
    for edge in range(6):
        assert {operations(arch)[edge] for arch in drawn} == set(OPERATIONS)
    assert drawn[0] == SPACE.sample(np.random.default_rng(0))


@given(ARCHS, SEEDS)
def test_a_mutation_changes_one_edge(arch: str, seed: int) -> None:
    child = SPACE.mutate(arch, np.random.default_rng(seed))
    assert SPACE.check(child) == child
    assert sum(a != b for a, b in zip(operations(arch), operations(child), strict=True)) == 1


def test_mutations_reach_every_neighbour() -> None:
    rng = np.random.default_rng(0)
    assert len({SPACE.mutate(EXAMPLE, rng) for _ in range(400)}) == 6 * 4


@given(ARCHS, ARCHS, SEEDS)
def test_a_crossover_takes_each_edge_from_a_parent(a: str, b: str, seed: int) -> None:
    child = SPACE.crossover(a, b, np.random.default_rng(seed))
    assert SPACE.check(child) == child
    for op, *parents in zip(operations(child), operations(a), operations(b), strict=True):
        assert op in parents


def test_crossovers_mix_freely() -> None:
    rng = np.random.default_rng(0)
    a, b = text(("none",) * 6), text(("skip_connect",) * 6)
    assert len({SPACE.crossover(a, b, rng) for _ in range(600)}) == 2**6


def test_connected_means_that_a_path_exists() -> None:
    archs = [text(ops) for ops in product(("none", "skip_connect", "nor_conv_1x1"), repeat=6)]
    assert [SPACE.connected(arch) for arch in archs] == [path_exists(arch) for arch in archs]


def test_connected_means_that_the_logits_depend_on_the_image() -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for ops in product(("none", "nor_conv_3x3"), repeat=6):
        torch.manual_seed(1)
        network = alive(SPACE.network(text(ops), Size(8, 1, 4)))
        with torch.no_grad():
            one, two = network(images)
        assert bool((one != two).any()) == SPACE.connected(text(ops)), ops


@settings(deadline=None, max_examples=12)
@given(ARCHS, st.sampled_from([Size(3, 1, 7), Size(4, 2, 10, 1)]), st.sampled_from([(16, 16), (15, 22)]))
def test_a_network_gives_logits(arch: str, size: Size, sides: tuple[int, int]) -> None:
    network = SPACE.network(arch, size)
    logits = network(torch.randn(3, size.image_channels, *sides))
    assert logits.shape == (3, size.classes)
    assert logits.isfinite().all()
    logits.sum().backward()


def test_a_cell_sums_its_edges() -> None:
    x = torch.randn(2, 4, 6, 6)
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    cells = [each for each in SPACE.network(EXAMPLE, Size(4, 1, 10)).modules() if isinstance(each, Cell)]
    assert len(cells) == 3
    three, one = (edge for edge in cells[0].edges if isinstance(edge, nn.Sequential))
    assert torch.equal(cells[0](x), x + one(three(x)))
    pooled = SPACE.network(text(("avg_pool_3x3", *["none"] * 3, "avg_pool_3x3", "none")), Size(4, 1, 10))
    assert torch.equal(next(m for m in pooled.modules() if isinstance(m, Cell))(x), pool(pool(x)))
    empty = SPACE.network(text(("none",) * 6), Size(4, 1, 10))
    assert torch.equal(next(m for m in empty.modules() if isinstance(m, Cell))(x), torch.zeros_like(x))


def test_an_operation_is_relu_convolution_and_batch_norm() -> None:
    assert [type(layer) for layer in relu_conv_bn(2, 3, 3, 2)] == [nn.ReLU, nn.Conv2d, nn.BatchNorm2d]
    assert relu_conv_bn(2, 3, 3, 2)(torch.randn(2, 2, 7, 8)).shape == (2, 3, 4, 4)


@pytest.mark.parametrize("size", [Size(None, 5, 10), Size(16, None, 10)])
def test_a_size_is_given_in_full(size: Size) -> None:
    with pytest.raises(ValueError, match="a network of nasbench201 needs channels and depth"):
        SPACE.network(EXAMPLE, size)


def test_parameters_of_two_cells_counted_by_hand() -> None:
    # Stem 464, reductions 14,464 and 57,600, last batch-norm 128, classifier 650.
    fixed = 464 + 14464 + 57600 + 128 + 650
    assert count(lambda: SPACE.network(text(("none",) * 6), SPACE.full), 3, 32).params == fixed == 73306
    # One 3x3 edge: 9 c^2 + 2 c of 16, 32 and 64 channels, in five cells each.
    three = text(("nor_conv_3x3", *["none"] * 5))
    assert count(lambda: SPACE.network(three, SPACE.full), 3, 32).params == fixed + 5 * (2336 + 9280 + 36992)


@settings(deadline=None, max_examples=6)
@given(ARCHS, st.sampled_from([Size(16, 5, 10), Size(3, 5, 10), Size(5, 2, 3, 1)]))
def test_parameters_are_those_of_the_closed_form(arch: str, size: Size) -> None:
    assert count(lambda: SPACE.network(arch, size), size.image_channels, 32).params == params(arch, size)


def test_every_row_of_the_table_has_the_parameters_of_the_closed_form() -> None:
    rows = table()
    assert len(rows) > 9000
    for row in rows:
        assert SPACE.check(row["arch"]) == row["arch"]
        assert params(row["arch"], SPACE.full) == round(float(row["params_m"]) * 1e6)


def test_rows_of_the_table_have_the_network_s_parameters_and_macs() -> None:
    for row in table()[::900]:
        counts = count(partial(SPACE.network, row["arch"], SPACE.full), 3, 32)
        assert counts.params == round(float(row["params_m"]) * 1e6)
        assert counts.macs == round(float(row["macs_m"]) * 1e6)
