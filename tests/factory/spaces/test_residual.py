import re
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from factory.spaces import residual
from factory.spaces.plan import Input
from factory.spaces.residual import (
    DEPTHS,
    EXPANSIONS,
    KERNELS,
    KINDS,
    STAGES,
    STEM_STRIDES,
    STEM_WIDTHS,
    STRIDES,
    WIDTHS,
    Genome,
    Stage,
    crossover,
    downsampling,
    fits_input,
    mutate,
    parse,
    plain_genomes,
    plan,
    random_genome,
)

EXAMPLE = "stem_w16_s2-basic_w24_d2_k3_e1_s1-bottle_w48_d1_k3_e4_s2-mb_w64_d3_k5_e3_s2"
SEEDS = st.integers(0, 2**32 - 1)
INPUTS = st.builds(Input, st.sampled_from([16, 24, 32, 48, 100]), st.sampled_from([16, 32, 33, 64]), st.just(1))


def stages() -> st.SearchStrategy[Stage]:
    return st.sampled_from(KINDS).flatmap(
        lambda kind: st.builds(
            Stage,
            st.just(kind),
            st.sampled_from(WIDTHS),
            st.sampled_from(DEPTHS),
            st.sampled_from(KERNELS),
            st.sampled_from(EXPANSIONS[kind]),
            st.sampled_from(STRIDES),
        )
    )


GENOMES = st.builds(
    Genome,
    st.sampled_from(STEM_WIDTHS),
    st.sampled_from(STEM_STRIDES),
    st.lists(stages(), min_size=STAGES[0], max_size=STAGES[-1]).map(tuple),
)


@given(GENOMES)
def test_every_genome_prints_and_parses_back(genome: Genome) -> None:
    assert parse(str(genome)) == genome
    assert parse(f" {genome}\n") == genome


def test_the_string_reads_as_documented() -> None:
    genome = parse(EXAMPLE)
    assert (genome.stem_width, genome.stem_stride) == (16, 2)
    assert genome.stages == (
        Stage("basic", 24, 2, 3, 1, 1),
        Stage("bottle", 48, 1, 3, 4, 2),
        Stage("mb", 64, 3, 5, 3, 2),
    )
    assert str(genome) == EXAMPLE
    assert EXAMPLE in str(residual.__doc__)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("stem_w16_s2-", "", "expected a stem like 'stem_w16_s2', found 'basic_w24_d2_k3_e1_s1'"),
        ("stem_w16", "stem_w17", "stem width 17 is not in the space: choose one of (8, 16, 24, 32)"),
        ("w16_s2", "w16_s3", "stem stride 3 is not in the space: choose one of (1, 2, 4)"),
        ("basic_w24", "basik_w24", "expected a stage like 'basic_w24_d2_k3_e1_s1', found 'basik_w24_d2_k3_e1_s1'"),
        ("_d2_k3", "_k3_d2", "expected a stage like"),
        ("-bottle", "-\nbottle", "expected a stage like"),
        ("basic_w24", "basic_w25", "width 25 is not in the space"),
        ("_d2_", "_d5_", "depth 5 is not in the space: choose one of (1, 2, 3, 4)"),
        ("_k5_", "_k7_", "kernel 7 is not in the space: choose one of (3, 5)"),
        ("d1_k3_e4", "d1_k3_e3", "expansion of bottle 3 is not in the space: choose one of (2, 4)"),
        ("e3_s2", "e3_s4", "stride 4 is not in the space: choose one of (1, 2)"),
        ("-basic_w24_d2_k3_e1_s1-bottle_w48_d1_k3_e4_s2", "", "number of stages 1 is not in the space"),
        ("stem_w16", "stem_w-16", "expected a stem like"),
    ],
)
def test_a_string_that_is_no_genome_is_told_by_its_part(old: str, new: str, said: str) -> None:
    assert EXAMPLE.count(old) == 1
    with pytest.raises(ValueError, match=re.escape(said)):
        parse(EXAMPLE.replace(old, new))


@given(st.text(alphabet="stembailc_wdkes0123456789-", max_size=60))
def test_no_other_text_is_read_as_a_genome(text: str) -> None:
    try:
        genome = parse(text)
    except ValueError:
        return
    assert str(genome) == text


@given(SEEDS, INPUTS)
def test_a_random_genome_is_of_the_space_and_fits_the_picture(seed: int, picture: Input) -> None:
    genome = random_genome(np.random.default_rng(seed), picture)
    assert parse(str(genome)) == genome
    assert all(one.width <= two.width for one, two in pairwise(genome.stages))
    assert min(picture.height, picture.width) // downsampling(genome) >= 2
    assert random_genome(np.random.default_rng(seed), picture) == genome


def test_random_genomes_use_the_whole_alphabet() -> None:
    rng = np.random.default_rng(0)
    drawn = [random_genome(rng, Input(64, 64, 1)) for _ in range(800)]
    of_stages = [stage for genome in drawn for stage in genome.stages]
    assert {(s.kind, s.expansion) for s in of_stages} == {(k, e) for k in KINDS for e in EXPANSIONS[k]}
    assert {s.width for s in of_stages} == set(WIDTHS)
    assert {s.depth for s in of_stages} == set(DEPTHS)
    assert {s.kernel for s in of_stages} == set(KERNELS)
    assert {s.stride for s in of_stages} == set(STRIDES)
    assert {len(g.stages) for g in drawn} == set(STAGES)
    assert {(g.stem_width, g.stem_stride) for g in drawn} == {(w, s) for w in STEM_WIDTHS for s in STEM_STRIDES}


def changes(one: Genome, two: Genome) -> int:
    """Properties in which two genomes of equally many stages differ; kind and expansion change together."""
    pairs = [(one.stem_width, two.stem_width), (one.stem_stride, two.stem_stride)]
    for a, b in zip(one.stages, two.stages, strict=True):
        names = [field.name for field in fields(Stage) if field.name not in ("kind", "expansion")]
        pairs += [(getattr(a, name), getattr(b, name)) for name in names]
        pairs.append(((a.kind, a.expansion), (b.kind, b.expansion)))
    return sum(a != b for a, b in pairs)


@settings(deadline=None)
@given(GENOMES, SEEDS, INPUTS)
def test_a_mutation_changes_one_thing_within_the_space(genome: Genome, seed: int, picture: Input) -> None:
    assume(fits_input(genome, picture))
    child = mutate(genome, np.random.default_rng(seed), picture)
    assert parse(str(child)) == child
    assert fits_input(child, picture)
    if len(child.stages) == len(genome.stages):
        assert changes(genome, child) == 1
    else:
        long, short = sorted((child, genome), key=lambda g: len(g.stages), reverse=True)
        without = [long.stages[:i] + long.stages[i + 1 :] for i in range(len(long.stages))]
        assert short.stages in without
        assert (child.stem_width, child.stem_stride) == (genome.stem_width, genome.stem_stride)
    assert mutate(genome, np.random.default_rng(seed), picture) == child


def test_mutations_lead_anywhere() -> None:
    rng, picture = np.random.default_rng(0), Input(64, 64, 1)
    genome, seen = parse(EXAMPLE), set()
    for _ in range(3000):
        genome = mutate(genome, rng, picture)
        seen |= {("stem", genome.stem_width, genome.stem_stride), len(genome.stages)}
        seen |= {(s.kind, s.width) for s in genome.stages} | {("k", s.kernel, s.stride, s.depth) for s in genome.stages}
    wanted = {("stem", w, s) for w in STEM_WIDTHS for s in STEM_STRIDES} | set(STAGES)
    wanted |= {(k, w) for k in KINDS for w in WIDTHS}
    wanted |= {("k", k, s, d) for k in KERNELS for s in STRIDES for d in DEPTHS}
    assert seen == wanted


@given(SEEDS, SEEDS, INPUTS)
def test_a_crossover_is_the_front_of_one_and_the_back_of_the_other(one: int, two: int, picture: Input) -> None:
    a, b = (random_genome(np.random.default_rng(seed), picture) for seed in (one, two))
    child = crossover(a, b, np.random.default_rng(one ^ two), picture)
    assert parse(str(child)) == child
    assert fits_input(child, picture)
    cuts = range(1, min(len(a.stages), len(b.stages)) + 1)
    assert child in [a, *(replace(a, stages=a.stages[:cut] + b.stages[cut:]) for cut in cuts)]


def test_a_crossover_takes_from_both() -> None:
    rng, picture = np.random.default_rng(0), Input(64, 64, 1)
    a, b = parse(EXAMPLE), parse("stem_w8_s1-mb_w8_d1_k3_e2_s1-mb_w8_d1_k3_e2_s1-mb_w8_d1_k3_e2_s2")
    children = {str(crossover(a, b, rng, picture)) for _ in range(50)}
    assert len(children) == 3
    assert any("bottle_w48" in child and "mb_w8" in child for child in children)


@given(GENOMES)
def test_a_plan_has_the_blocks_the_genome_names(genome: Genome) -> None:
    network = plan(genome, Input(40, 56, 3), 7)
    assert len(network.blocks) == sum(stage.depth for stage in genome.stages)
    assert (network.stem.channels_in, network.stem.channels_out) == (3, genome.stem_width)
    width, blocks = genome.stem_width, list(network.blocks)
    for stage in genome.stages:
        for index in range(stage.depth):
            block = blocks.pop(0)
            stride = stage.stride if index == 0 else 1
            assert (block.branch[0].channels_in, block.branch[-1].channels_out) == (width, stage.width)
            assert np.prod([conv.stride for conv in block.branch]) == stride
            assert {conv.kernel for conv in block.branch if conv.kernel > 1} == {stage.kernel}
            assert not block.branch[-1].relu
            same = stride == 1 and width == stage.width
            if stage.kind == "mb":
                assert block.branch[0].channels_out == width * stage.expansion
                assert [conv.groups for conv in block.branch] == [1, width * stage.expansion, 1]
                assert (block.residual, block.shortcut, block.relu_after) == (same, None, False)
            else:
                assert block.residual and block.relu_after
                assert (block.shortcut is None) == same
                assert {conv.groups for conv in block.branch} == {1}
            width = stage.width
    assert network.features == width


def test_the_plain_references_are_plain_and_fit() -> None:
    for picture in (Input(32, 32, 1), Input(96, 64, 3)):
        plain = plain_genomes(picture)
        assert len(plain) == len(set(plain)) > 10
        for genome in plain:
            assert parse(str(genome)) == genome
            assert fits_input(genome, picture)
            assert {(s.kind, s.kernel, s.expansion) for s in genome.stages} == {("basic", 3, 1)}
            assert len({s.depth for s in genome.stages}) == 1
            assert all(two.width == 2 * one.width for one, two in pairwise(genome.stages))
