"""Splits without leaks: stratified, seeded, never parting a group or two copies of one picture."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from export.runtime.errors import UsageError
from factory.data.index import SPLITS


def _clusters(groups: Sequence[str | None], contents: Sequence[str]) -> list[int]:
    """Number the sets of pictures that must stay together: one group, or the same pixels."""
    parent = list(range(len(contents)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, (group, content) in enumerate(zip(groups, contents, strict=True)):
        for key in (("group", group), ("content", content)):
            if key[1] is not None:
                parent[root(i)] = root(first.setdefault((key[0], key[1]), i))
    return [root(i) for i in range(len(contents))]


def leaks(splits: Sequence[str], contents: Sequence[str]) -> list[list[int]]:
    """Indices of equal pictures that stand in more than one split."""
    places: dict[str, list[int]] = defaultdict(list)
    for i, content in enumerate(contents):
        places[content].append(i)
    return [same for same in places.values() if len({splits[i] for i in same}) > 1]


def parted_groups(splits: Sequence[str], groups: Sequence[str | None]) -> list[str]:
    """Groups that stand in more than one split."""
    seen: dict[str, set[str]] = defaultdict(set)
    for split, group in zip(splits, groups, strict=True):
        if group is not None:
            seen[group].add(split)
    return sorted(group for group, found in seen.items() if len(found) > 1)


def _assign(labels: Sequence[str], clusters: Sequence[int], shares: Sequence[float], seed: int) -> list[int]:
    """Part (0, 1, ...) of each picture: every cluster goes where its label is furthest below its share."""
    members: dict[int, list[int]] = defaultdict(list)
    for i, number in enumerate(clusters):
        members[number].append(i)
    order = [members[number] for number in sorted(members)]
    np.random.default_rng(seed).shuffle(order)
    order.sort(key=len, reverse=True)  # stable: large groups first, they are the hardest to place
    total, have = Counter(labels), [Counter[str]() for _ in shares]
    part = [0] * len(labels)
    for cluster in order:
        label = Counter(labels[i] for i in cluster).most_common(1)[0][0]
        missing = [share * total[label] - have[p][label] for p, share in enumerate(shares)]
        target = int(np.argmax(missing))
        for i in cluster:
            part[i] = target
            have[target][labels[i]] += 1
    return part


def split(
    labels: Sequence[str],
    given: Sequence[str | None],
    groups: Sequence[str | None],
    contents: Sequence[str],
    shares: tuple[float, float, float],
    seed: int,
) -> list[str]:
    """Return train, val or test for every picture.

    Splits that the user gave are kept; a validation part that is missing is taken from the training part.

    Args:
        labels: of every picture, as found: merged labels are then stratified too.
        given: the user's split, or None throughout.
        groups: pictures of one group are never parted; None stands alone.
        contents: pixel hashes; equal pictures are never parted.
        shares: of train, val and test, used where the user gave no splits.
        seed: of the shuffle.

    Raises:
        UsageError: if only some pictures have a split, or if train or test images are missing.
    """
    if all(part is None for part in given):
        parts = _assign(labels, _clusters(groups, contents), shares, seed)
        return [SPLITS[part] for part in parts]
    if any(part is None for part in given):
        raise UsageError("some pictures have a split and some have none", fix="give a split for all, or for none")
    splits = [part for part in given if part is not None]
    if "test" not in splits or "train" not in splits:
        raise UsageError("the given splits must hold train and test pictures", found=", ".join(sorted(set(splits))))
    if "val" not in splits:
        train = [i for i, part in enumerate(splits) if part == "train"]
        share = shares[1] / (shares[0] + shares[1])
        clusters = _clusters([groups[i] for i in train], [contents[i] for i in train])
        for i, part in zip(train, _assign([labels[i] for i in train], clusters, (1 - share, share), seed), strict=True):
            splits[i] = SPLITS[part]
    return splits
