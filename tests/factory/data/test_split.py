from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.runtime.errors import UsageError
from factory.data.split import leaks, parted_groups, split

SHARES = (0.6, 0.2, 0.2)
NAMES = ("train", "val", "test")


@st.composite
def pictures(draw: st.DrawFn, pure: bool = False, least: int = 1) -> tuple[list[str], list[str | None], list[str]]:
    """Labels, groups and contents of some pictures; `pure` keeps what must stay together of one label."""
    count = draw(st.integers(least, 80))
    several = st.lists(st.integers(0, 12), min_size=count, max_size=count)
    contents = [str(c) if c < 6 else f"own {i}" for i, c in enumerate(draw(several))]
    groups = [None if g > 8 else f"g{g}" for g in draw(several)]
    labels = [f"label {c % 3}" for c in draw(several)]
    if pure:
        home = {i: i for i in range(count)}
        for i, j in combinations(range(count), 2):
            if contents[i] == contents[j] or (groups[i] is not None and groups[i] == groups[j]):
                old, new = home[j], home[i]
                home = {k: new if place == old else place for k, place in home.items()}
        labels = [labels[home[i]] for i in range(count)]
    return labels, groups, contents


def places(splits: Sequence[str], keys: Sequence[str | None]) -> dict[str, set[str]]:
    return {key: {splits[i] for i, k in enumerate(keys) if k == key} for key in keys if key is not None}


@given(pictures(), st.integers(0, 5))
def test_no_group_and_no_picture_stands_in_two_splits_and_the_seed_decides(
    drawn: tuple[list[str], list[str | None], list[str]], seed: int
) -> None:
    labels, groups, contents = drawn
    nothing = [None] * len(labels)
    splits = split(labels, nothing, groups, contents, SHARES, seed)
    assert len(splits) == len(labels) and set(splits) <= set(NAMES)
    assert all(len(found) == 1 for found in places(splits, groups).values())
    assert all(len(found) == 1 for found in places(splits, contents).values())
    assert leaks(splits, contents) == [] and parted_groups(splits, groups) == []
    assert split(labels, nothing, groups, contents, SHARES, seed) == splits


def largest(groups: Sequence[str | None], contents: Sequence[str]) -> int:
    """Pictures in the largest set that must stay together, by growing each set until nothing joins it."""
    best = 0
    for start in range(len(contents)):
        inside = {start}
        while True:
            more = {
                j
                for j in range(len(contents))
                for i in inside
                if contents[i] == contents[j] or (groups[i] is not None and groups[i] == groups[j])
            }
            if more <= inside:
                break
            inside |= more
        best = max(best, len(inside))
    return best


@settings(deadline=None, max_examples=40)
@given(pictures(pure=True), st.integers(0, 5), st.sampled_from([SHARES, (0.8, 0.1, 0.1), (0.34, 0.33, 0.33)]))
def test_every_label_comes_within_one_group_of_its_share(
    drawn: tuple[list[str], list[str | None], list[str]], seed: int, shares: tuple[float, float, float]
) -> None:
    labels, groups, contents = drawn
    splits = split(labels, [None] * len(labels), groups, contents, shares, seed)
    step = largest(groups, contents)
    for label, total in Counter(labels).items():
        for name, share in zip(NAMES, shares, strict=True):
            have = sum(own == label and part == name for own, part in zip(labels, splits, strict=True))
            assert (
                share * total - 2 * step < have < share * total + step
            )  # two parts over by a step leave one two under


def test_single_pictures_are_stratified_to_the_picture() -> None:
    labels = ["a"] * 100 + ["b"] * 50 + ["c"] * 10
    splits = split(labels, [None] * 160, [None] * 160, [str(i) for i in range(160)], SHARES, 0)
    assert Counter(zip(labels, splits, strict=True)) == {
        ("a", "train"): 60, ("a", "val"): 20, ("a", "test"): 20,
        ("b", "train"): 30, ("b", "val"): 10, ("b", "test"): 10,
        ("c", "train"): 6, ("c", "val"): 2, ("c", "test"): 2,
    }  # fmt: skip


def test_another_seed_draws_other_pictures() -> None:
    contents = [str(i) for i in range(60)]
    drawn = {tuple(split(["a"] * 60, [None] * 60, [None] * 60, contents, SHARES, seed)) for seed in range(5)}
    assert len(drawn) == 5


@settings(deadline=None, max_examples=50)
@given(pictures(least=4), st.data())
def test_given_splits_are_kept_and_a_missing_validation_part_comes_from_training(
    drawn: tuple[list[str], list[str | None], list[str]], data: st.DataObject
) -> None:
    labels, groups, contents = drawn
    either = st.lists(st.sampled_from(["train", "test"]), min_size=len(labels), max_size=len(labels))
    given_splits = data.draw(either.filter(lambda parts: len(set(parts)) == 2))
    splits = split(labels, given_splits, groups, contents, SHARES, 0)
    assert [part == "test" for part in splits] == [part == "test" for part in given_splits]
    train = [i for i, part in enumerate(given_splits) if part == "train"]
    for keys in (groups, contents):
        found = places([splits[i] for i in train], [keys[i] for i in train])
        assert all(len(parts) == 1 for parts in found.values())


def test_the_validation_part_taken_from_training_has_its_share() -> None:
    count = 80
    splits = split(
        ["a", "b"] * 50,
        ["train"] * count + ["test"] * 20,
        [None] * 100,
        [str(i) for i in range(100)],
        (0.6, 0.2, 0.2),
        0,
    )
    assert Counter(splits) == {"train": 60, "val": 20, "test": 20}
    assert Counter(part for part, label in zip(splits, ["a", "b"] * 50, strict=True) if label == "a")["val"] == 10


def test_a_given_validation_part_is_left_alone() -> None:
    given_splits = ["train", "val", "test", "train"]
    contents = ["1", "2", "3", "4"]
    assert split(["a"] * 4, given_splits, [None] * 4, contents, SHARES, 0) == given_splits


@pytest.mark.parametrize(
    ("given_splits", "said"),
    [
        (["train", None, "test"], "some pictures have a split and some have none"),
        (["train", "val", "train"], "must hold train and test pictures: found train, val"),
        (["test", "val", "test"], "must hold train and test pictures: found test, val"),
    ],
)
def test_splits_that_will_not_do_are_refused(given_splits: list[str | None], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        split(["a"] * 3, given_splits, [None] * 3, ["1", "2", "3"], SHARES, 0)


def by_pairs(splits: Sequence[str], keys: Sequence[str | None]) -> set[str]:
    """Keys that stand in two splits, by looking at every pair."""
    pairs = combinations(range(len(keys)), 2)
    return {k for i, j in pairs if (k := keys[i]) is not None and keys[j] == k and splits[i] != splits[j]}


@given(pictures(), st.data())
def test_leaks_and_parted_groups_are_all_found(
    drawn: tuple[list[str], list[str | None], list[str]], data: st.DataObject
) -> None:
    _, groups, contents = drawn
    splits = data.draw(st.lists(st.sampled_from(NAMES), min_size=len(groups), max_size=len(groups)))
    assert parted_groups(splits, groups) == sorted(by_pairs(splits, groups))
    found = leaks(splits, contents)
    assert {contents[same[0]] for same in found} == by_pairs(splits, contents)
    for same in found:
        assert same == [i for i, content in enumerate(contents) if content == contents[same[0]]]
