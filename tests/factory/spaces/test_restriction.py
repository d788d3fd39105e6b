import re
import tomllib
from collections import Counter
from itertools import product

import numpy as np
import pytest
from scipy.stats import chisquare, ks_2samp

from export.runtime.errors import UsageError
from factory.profiles import SpaceLimits
from factory.spaces import residual
from factory.spaces.plan import Input
from factory.spaces.residual import parse, random_genome
from factory.spaces.restriction import (
    EVERYTHING,
    allowed,
    allows,
    choices,
    describe,
    draw,
    genome_count,
    parse_restriction,
    toml,
    union,
    without,
)

PICTURE = Input(32, 32, 1)


def test_the_profile_knows_the_alphabet_of_the_space() -> None:
    assert SpaceLimits() == EVERYTHING
    assert EVERYTHING.kinds == residual.KINDS
    assert EVERYTHING.depths == residual.DEPTHS
    assert EVERYTHING.widths == residual.WIDTHS
    assert EVERYTHING.kernels == residual.KERNELS
    assert EVERYTHING.stem_strides == residual.STEM_STRIDES
    assert len(allowed(EVERYTHING)) == 3 + 4 + 10 + 2 + 3


def test_a_genome_is_allowed_when_every_part_of_its_name_is() -> None:
    rng = np.random.default_rng(0)
    verdicts = Counter()
    for _ in range(400):
        limits = parse_restriction(
            "kinds=basic,mb+depths=1,2,3+widths=8,16,32,48,64,128,192,256+kernels=3,5+stem_strides=1,2"
        )
        text = str(random_genome(rng, PICTURE))
        numbers = {letter: {int(n) for n in re.findall(rf"_{letter}(\d+)", text.split("-", 1)[1])} for letter in "dwk"}
        expected = (
            "bottle" not in text
            and 4 not in numbers["d"]
            and not numbers["w"] & {24, 96}
            and "_s4" not in text.split("-", maxsplit=1)[0]
        )
        assert allows(limits, parse(text)) == expected
        verdicts[expected] += 1
    assert min(verdicts[True], verdicts[False]) > 10


def test_the_choices_of_a_genome_are_those_of_all_its_stages() -> None:
    genome = parse("stem_w16_s2-basic_w24_d2_k3_e1_s1-mb_w64_d2_k5_e3_s2")
    assert choices(genome) == {
        ("stem_strides", 2), ("kinds", "basic"), ("kinds", "mb"), ("widths", 24), ("widths", 64), ("depths", 2),
        ("kernels", 3), ("kernels", 5),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("all", "all"),
        ("kinds=basic", "kinds=basic"),
        ("depths=2,1+kinds=mb,basic", "kinds=basic,mb+depths=1,2"),
        ("kernels=5,3", "all"),
        ("widths=8,256+stem_strides=4", "widths=8,256+stem_strides=4"),
    ],
)
def test_a_restriction_is_written_as_it_is_read_and_as_the_profile_reads_it(text: str, written: str) -> None:
    limits = parse_restriction(text)
    assert describe(limits) == written
    assert parse_restriction(written) == limits
    assert SpaceLimits.model_validate(
        {key: tuple(values) for key, values in tomllib.loads(toml(limits)).get("space", {}).items()}
    ) == limits  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected each key once, of kinds, depths, widths, kernels, stem_strides"),
        ("kind=basic", "expected each key once, of kinds, depths, widths, kernels, stem_strides"),
        ("all+kinds=mb", "found 'all'"),
        ("kinds=mb+kinds=basic", "found 'kinds=basic'"),
        ("kinds=dense,mb", "expected kinds of basic,bottle,mb, found 'dense'"),
        ("depths=5", "expected depths of 1,2,3,4, found '5'"),
        ("depths=", "expected depths of 1,2,3,4, found ''"),
        ("widths=8,,16", "expected widths of 8,16,24,32,48,64,96,128,192,256, found ''"),
        ("kernels=3 5", "found '3 5'"),
        ("stem_strides=1.0", "expected stem_strides of 1,2,4, found '1.0'"),
    ],
)
def test_a_wrong_restriction_is_refused_by_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_restriction(text)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_nothing_outside_the_lines_own_limits_can_be_asked_for() -> None:
    line = parse_restriction("kinds=basic,mb+depths=1,2")
    assert parse_restriction("all", line) == line
    assert describe(parse_restriction("depths=2", line), line) == "depths=2"
    assert parse_restriction("depths=2", line) == parse_restriction("kinds=basic,mb+depths=2")
    with pytest.raises(UsageError, match=r"expected kinds of basic,mb, found 'bottle'"):
        parse_restriction("kinds=bottle", line)


def test_choices_are_taken_away_and_put_together() -> None:
    assert without(EVERYTHING, ("kernels", 5)) == parse_restriction("kernels=3")
    assert without(parse_restriction("kernels=3"), ("kernels", 3)) is None
    both = union(parse_restriction("kinds=mb+depths=4"), parse_restriction("kinds=basic"))
    assert both == parse_restriction("kinds=basic,mb")


def test_without_limits_the_draw_is_the_spaces_own() -> None:
    for side in (16, 40):
        ours, theirs = np.random.default_rng(3), np.random.default_rng(3)
        picture = Input(side, side, 3)
        assert [draw(EVERYTHING, ours, picture) for _ in range(200)] == [
            random_genome(theirs, picture) for _ in range(200)
        ]


def test_what_is_drawn_is_allowed_and_uniform_among_what_is_left() -> None:
    limits = parse_restriction("kinds=basic,mb+depths=1,3,4+widths=8,64,256+kernels=5+stem_strides=1,4")
    rng = np.random.default_rng(0)
    large = Input(256, 256, 1)
    genomes = [draw(limits, rng, large) for _ in range(1500)]
    assert all(allows(limits, genome) for genome in genomes)
    assert all(parse(str(genome)) == genome for genome in genomes)
    assert all([s.width for s in g.stages] == sorted(s.width for s in g.stages) for g in genomes)
    for values in (
        [s.kind for g in genomes for s in g.stages],
        [s.depth for g in genomes for s in g.stages],
        [s.width for g in genomes for s in g.stages],
        [g.stem_stride for g in genomes],
        [s.expansion for g in genomes for s in g.stages if s.kind == "mb"],
        [len(g.stages) for g in genomes],
    ):
        counts = Counter(values)
        assert len(counts) == {"basic": 2}.get(values[0], len(counts)) and len(counts) > 1
        assert chisquare(list(counts.values())).pvalue > 1e-3


def test_the_draw_is_that_of_the_space_given_that_it_is_allowed() -> None:
    """Of a choice made once a genome, the draw must look like the space's own with the rest thrown away."""
    limits, rng = parse_restriction("stem_strides=2,4"), np.random.default_rng(1)
    ours = [draw(limits, rng, PICTURE) for _ in range(1000)]
    free = (random_genome(rng, PICTURE) for _ in range(3000))
    theirs = [genome for genome in free if genome.stem_stride != 1]
    for measure in (lambda g: len(g.stages), lambda g: sum(s.depth for s in g.stages), lambda g: g.stem_stride):
        assert ks_2samp([measure(g) for g in ours], [measure(g) for g in theirs], method="asymp").pvalue > 0.01


def test_the_genomes_that_are_left_are_counted() -> None:
    stage = 2 * 4  # strides, expansions of mb
    few = parse_restriction("kinds=mb+depths=2+widths=24+kernels=3+stem_strides=1")
    assert genome_count(few) == 4 * (stage**2 + stage**3 + stage**4)


def test_the_number_of_genomes_is_that_of_their_strings() -> None:
    kinds = sum(1 for kind in residual.KINDS for _ in residual.EXPANSIONS[kind])
    stages = product(residual.WIDTHS, residual.DEPTHS, residual.KERNELS, residual.STRIDES)
    one = sum(kinds for _ in stages)
    stems = sum(1 for _ in residual.STEM_WIDTHS for _ in residual.STEM_STRIDES)
    assert genome_count() == stems * (one**2 + one**3 + one**4)
