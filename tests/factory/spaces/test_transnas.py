import csv
import re
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from factory.spaces.counting import count
from factory.spaces.layers import GlobalMean
from factory.spaces.nasbench201 import EDGES, Cell, Residual
from factory.spaces.protocol import Size, Space
from factory.spaces.transnas import FactorizedReduction, TransNasMacro, TransNasMicro, WideZero, skeletons

MICRO, MACRO = TransNasMicro(), TransNasMacro()
PATHS = ((0, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2, 3))
SEEDS = st.integers(0, 2**32 - 1)
CLASSES = {"class_scene": 63, "class_object": 100, "room_layout": 9}


def text(operations: tuple[str, ...]) -> str:
    a, b, c, d, e, f = operations
    return f"64-41414-{a}_{b}{c}_{d}{e}{f}"


CELLS = st.tuples(*[st.sampled_from("0123")] * 6).map(text)
SKELETONS = st.sampled_from(skeletons()).map(lambda modules: f"64-{modules}-basic")
BOTH = [pytest.param(MICRO, id="micro"), pytest.param(MACRO, id="macro")]


def last_width(arch: str, c: int = 64) -> int:
    return c << len(re.findall("[24]", arch.split("-")[1]))


def params(arch: str, size: Size) -> int:
    """Trainable parameters in closed form."""
    c = 64 if size.channels is None else size.channels
    _, modules, cell = arch.split("-")
    stem = 9 * size.image_channels * (c // 2) + 2 * (c // 2) + 9 * (c // 2) * c + 2 * c
    total = stem + (last_width(arch, c) + 1) * size.classes
    for module in modules:
        wide = 2 * c if module in "24" else c
        total += block(cell, c, wide, module != "1") + block(cell, wide, wide, False)
        c = wide
    return total


def block(cell: str, narrow: int, wide: int, changes: bool) -> int:
    if cell == "basic":
        return 9 * narrow * wide + 9 * wide**2 + 4 * wide + changes * (narrow * wide + 2 * wide)
    total = 0
    for op, (source, _) in zip(cell.replace("_", ""), EDGES, strict=True):
        width = wide if source else narrow
        skip = width * wide + 2 * wide if changes and source == 0 else 0
        total += {"0": 0, "1": skip, "2": width * wide + 2 * wide, "3": 9 * width * wide + 2 * wide}[op]
    return total


def path_exists(arch: str) -> bool:
    of_edge = dict(zip(EDGES, arch.split("-")[2].replace("_", ""), strict=True))
    return any(all(of_edge[edge] != "0" for edge in pairwise(path)) for path in PATHS)


def alive(network: nn.Module) -> nn.Module:
    """As is, but with weights that carry an image through any depth."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return network.double().eval()


def rows(name: str) -> list[dict[str, str]]:
    path = Path(__file__).parents[4] / "shared" / "bench" / name
    if not path.exists():
        pytest.skip("no benchmark tables beside the checkout")
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def flops(space: Space, arch: str, classes: int) -> int:
    """What NASLib's counter takes for floating-point operations, the global mean and the head's bias aside."""
    size = Size(64, None, classes)
    counts = count(lambda: space.network(arch, size), 3, 256)
    with torch.device("meta"):
        network, images = space.network(arch, size).eval(), torch.empty(1, 3, 256, 256)
    normalised = 0

    def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal normalised
        normalised += output.numel()

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(hook)
    with torch.no_grad():
        network(images)
    return counts.macs + 2 * normalised + counts.positions


@pytest.mark.parametrize("space", BOTH)
def test_they_are_spaces(space: Space) -> None:
    assert space.full == Size(64, None, 63)
    assert space.proxy == Size(8, None, 63)
    assert space.name.startswith("transnas-m")


@given(st.one_of(CELLS, SKELETONS))
def test_every_architecture_is_its_own_canonical_form(arch: str) -> None:
    space: Space = MACRO if "basic" in arch else MICRO
    assert space.check(arch) == arch
    assert space.check(f" {arch}\n") == arch


@pytest.mark.parametrize(
    ("space", "arch", "said"),
    [
        (MICRO, "64-41414", "expected three parts, '64-<modules>-<blocks>', found '64-41414'"),
        (MICRO, "32-41414-1_11_111", "expected three parts"),
        (MICRO, "64-1234-1_11_111", "modules '1234' are not in the space: cells are stacked as '41414'"),
        (MICRO, "64-41414-basic", "expected a cell like 'a_bc_def', found 'basic'"),
        (MICRO, "64-41414-1_111_11", "expected a cell like 'a_bc_def', found '1_111_11'"),
        (MICRO, "64-41414-1_14_111", "operation '4' of '1_14_111' is not in the space: choose one of ('0', '1'"),
        (MACRO, "64-basic", "expected three parts"),
        (MACRO, "64-41414-1_11_111", "block '1_11_111' is not in the space: it is 'basic'"),
        (MACRO, "64-41514-basic", "module '5' of '41514' is not in the space: choose one of ('1', '2', '3', '4')"),
        (MACRO, "64-411-basic", "'411' has 3 modules: choose one of (4, 5, 6)"),
        (MACRO, "64-1111114-basic", "'1111114' has 7 modules"),
        (MACRO, "64-1113-basic", "'1113' has 0 modules that widen (2, 4): choose one of (1, 2, 3)"),
        (MACRO, "64-4444-basic", "'4444' has 4 modules that widen"),
        (MACRO, "64-1112-basic", "'1112' has 0 modules that halve the sides (3, 4): choose one of (1, 2, 3, 4)"),
        (MACRO, "64-333432-basic", "'333432' has 5 modules that halve the sides"),
    ],
)
def test_a_string_that_is_no_architecture_is_told_by_its_part(space: Space, arch: str, said: str) -> None:
    for refuses in (space.check, space.connected, lambda each: space.network(each, space.proxy)):
        with pytest.raises(ValueError, match=re.escape(said)):
            refuses(arch)


def test_there_are_as_many_skeletons_as_the_paper_says() -> None:
    assert len(skeletons()) == len(set(skeletons())) == 3256


def test_the_spaces_are_those_of_the_tables() -> None:
    assert {row["arch"] for row in rows("tnb101_macro.csv")} == {f"64-{modules}-basic" for modules in skeletons()}
    assert {row["arch"] for row in rows("tnb101_micro.csv")} == {text(ops) for ops in product("0123", repeat=6)}


@pytest.mark.parametrize("space", BOTH)
def test_samples_use_the_whole_alphabet(space: Space) -> None:
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(300)]
    assert all(space.check(arch) == arch for arch in drawn)
    assert len(set(drawn)) > 250
    choices = [arch.removeprefix("64-41414-" if space is MICRO else "64-") for arch in drawn]
    for at in (0, 2, 3, 5):
        assert {each[at] for each in choices} >= set("123" if space is MICRO else "1234")
    assert drawn[0] == space.sample(np.random.default_rng(0))


@given(CELLS, SEEDS)
def test_a_mutation_of_a_cell_changes_one_edge(arch: str, seed: int) -> None:
    child = MICRO.mutate(arch, np.random.default_rng(seed))
    assert MICRO.check(child) == child
    assert sum(a != b for a, b in zip(arch, child, strict=True)) == 1


@given(SKELETONS, SEEDS)
def test_a_mutation_of_a_skeleton_changes_one_module(arch: str, seed: int) -> None:
    child = MACRO.mutate(arch, np.random.default_rng(seed))
    assert MACRO.check(child) == child != arch
    if len(child) == len(arch):
        assert sum(a != b for a, b in zip(arch, child, strict=True)) == 1
    else:
        long, short = sorted((arch, child), key=len, reverse=True)
        assert short in [long[:at] + long[at + 1 :] for at in range(len(long))]


def test_mutations_of_a_skeleton_reach_every_length() -> None:
    rng = np.random.default_rng(0)
    children = {MACRO.mutate("64-12413-basic", rng) for _ in range(600)}
    assert {len(child.split("-")[1]) for child in children} == {4, 5, 6}
    assert {"64-1241-basic", "64-22413-basic", "64-124131-basic"} <= children


@given(CELLS, CELLS, SEEDS)
def test_a_crossover_of_cells_takes_each_edge_from_a_parent(a: str, b: str, seed: int) -> None:
    child = MICRO.crossover(a, b, np.random.default_rng(seed))
    assert MICRO.check(child) == child
    assert all(op in parents for op, *parents in zip(child, a, b, strict=True))


@given(SKELETONS, SKELETONS, SEEDS)
def test_a_crossover_of_skeletons_takes_each_module_from_a_parent(a: str, b: str, seed: int) -> None:
    child = MACRO.crossover(a, b, np.random.default_rng(seed))
    assert MACRO.check(child) == child
    assert len(child) in (len(a), len(b))
    modules = [arch.split("-")[1] for arch in (a, b)]
    for at, module in enumerate(child.split("-")[1]):
        assert module in [parent[at] for parent in modules if at < len(parent)]


def test_connected_means_that_a_path_exists() -> None:
    for ops in product("013", repeat=6):
        assert MICRO.connected(text(ops)) == path_exists(text(ops))
    assert all(MACRO.connected(f"64-{modules}-basic") for modules in skeletons())


def test_connected_means_that_the_logits_depend_on_the_image() -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for ops in product("03", repeat=6):
        torch.manual_seed(1)
        network = alive(MICRO.network(text(ops), Size(6, None, 4)))
        with torch.no_grad():
            one, two = network(images)
        assert bool((one != two).any()) == MICRO.connected(text(ops)), ops


@settings(deadline=None, max_examples=15)
@given(st.one_of(CELLS, SKELETONS), st.sampled_from([Size(4, None, 7), Size(3, None, 10, 1)]))
def test_a_network_gives_logits(arch: str, size: Size) -> None:
    space: Space = MACRO if "basic" in arch else MICRO
    network = space.network(arch, size)
    logits = network(torch.randn(3, size.image_channels, 64, 32))
    assert logits.shape == (3, size.classes)
    assert logits.isfinite().all()
    logits.sum().backward()


@pytest.mark.parametrize("arch", ["64-411131-basic", "64-3433-basic", "64-2124-basic", "64-41414-0_00_111"])
def test_maps_have_the_shapes_that_the_string_says(arch: str) -> None:
    space: Space = MACRO if "basic" in arch else MICRO
    x, width, side = torch.randn(2, 3, 128, 128), 4, 32
    network = space.network(arch, Size(4, None, 5)).eval()
    layers = list(network.children())
    for layer in layers[:3]:
        x = layer(x)
    assert x.shape == (2, width, side, side)
    blocks = layers[3:-2]
    for module in arch.split("-")[1]:
        width, side = width * (1 + (module in "24")), side // (1 + (module in "34"))
        for _ in range(2):
            made = blocks.pop(0)
            assert isinstance(made, Residual if "basic" in arch else Cell)
            x = made(x)
            assert x.shape == (2, width, side, side)
    assert not blocks
    assert isinstance(layers[-2], GlobalMean) and isinstance(layers[-1], nn.Linear)


def test_a_reduction_reads_even_and_odd_pixels() -> None:
    skip = FactorizedReduction(2, 4).eval()
    x = torch.rand(1, 2, 6, 8)
    changed = x.clone()
    changed[:, :, 1::2, 1::2] += 1
    assert skip(x).shape == (1, 4, 3, 4)
    assert torch.equal(skip(changed)[:, :2], skip(x)[:, :2])
    assert (skip(changed)[:, 2:] != skip(x)[:, 2:]).all()


def test_none_is_zero_in_the_shape_of_the_other_operations() -> None:
    assert torch.equal(WideZero()(torch.rand(2, 3, 5, 8)), torch.zeros(2, 6, 3, 4))


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (Size(1, None, 10), "the stem needs at least two channels"),
        (Size(8, 5, 10), "the depth is in the architecture: give None"),
    ],
)
def test_a_size_that_cannot_be_built_is_refused(size: Size, said: str) -> None:
    for space, arch in ((MICRO, "64-41414-1_11_111"), (MACRO, "64-41414-basic")):
        with pytest.raises(ValueError, match=said):
            space.network(arch, size)


def test_parameters_of_two_networks_counted_by_hand() -> None:
    # Stem: 864 + 64 + 18,432 + 128. Head: 512 x 63 + 63.
    fixed = 19488 + 32319
    assert count(lambda: MICRO.network("64-41414-0_00_000", MICRO.full), 3, 64).params == fixed
    # A skip from input to output costs two 1x1 halves and a batch-norm where the cell widens, else nothing.
    skips = (8192 + 256) + (32768 + 512) + (131072 + 1024)
    assert count(lambda: MICRO.network("64-41414-0_00_100", MICRO.full), 3, 64).params == fixed + skips
    # Blocks of 9 c^2 + 2 c a convolution; the fourth module has a 1x1 shortcut and batch-norm.
    plain, wide = 2 * 36992, 2 * 147712
    first = (73728 + 256) + 147712 + (8192 + 256)
    narrow = 19488 + 3 * 2 * plain + first + wide + 129 * 63
    assert count(lambda: MACRO.network("64-1114-basic", MACRO.full), 3, 64).params == narrow


@settings(deadline=None, max_examples=10)
@given(st.one_of(CELLS, SKELETONS), st.sampled_from([Size(None, None, 63), Size(8, None, 5), Size(7, None, 3, 1)]))
def test_parameters_are_those_of_the_closed_form(arch: str, size: Size) -> None:
    space: Space = MACRO if "basic" in arch else MICRO
    assert count(lambda: space.network(arch, size), size.image_channels, 64).params == params(arch, size)


@pytest.mark.parametrize(("name", "least"), [("zc_tnb101_micro.csv", 711 * 4), ("zc_tnb101_macro.csv", 2700)])
def test_every_row_of_the_tables_has_the_parameters_of_the_closed_form(name: str, least: int) -> None:
    compared = 0
    for row in rows(name):
        arch, task = row["arch"], row["task"]
        if task in CLASSES:
            expected = params(arch, Size(64, None, CLASSES[task]))
        elif task == "jigsaw":
            expected = params(arch, Size(64, None, 1000)) + 8 * 1000 * last_width(arch)
        else:
            continue
        assert row["params"] == f"{expected / 1e6:.6g}"
        compared += 1
    assert compared >= least


@pytest.mark.parametrize("space", BOTH)
def test_rows_of_the_tables_have_the_network_s_flops(space: Space) -> None:
    name = space.name.replace("transnas-", "zc_tnb101_")
    for row in [row for row in rows(f"{name}.csv") if row["task"] == "class_scene"][::120]:
        found = flops(space, row["arch"], 63) / 1e6
        assert found == pytest.approx(float(row["flops"]), rel=4e-4)
