"""The line's pictures, decoded, labelled and split: what every later stage reads."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.runtime.errors import UsageError
from factory.data.decode import Picture, Unreadable, decode_all
from factory.data.index import SPLITS, Item, list_csv, list_folders
from factory.data.split import leaks, parted_groups, split
from factory.profiles import Classes, LineProfile
from factory.workspace import read_json, write_array, write_json

UNREADABLE_LIMIT = 0.05  # more than this share of broken files points at a wrong folder or a broken copy


@dataclass(frozen=True, slots=True)
class Part:
    """One split: images uint8 (N, H, W, C), labels int64 (N,), paths below the root, labels as found."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    paths: tuple[str, ...]
    raw_labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The three splits and the names of the classes in the order of the network's outputs."""

    labels: tuple[str, ...]
    good: int | None
    train: Part
    val: Part
    test: Part


def list_items(line: LineProfile, root: Path) -> list[Item]:
    """List the pictures of a line by its layout, without those whose label is dropped.

    Raises:
        UsageError: if a label of the images is unknown to the profile, or one of the profile has no image.
    """
    items = list_folders(root) if line.images.layout == "folders" else list_csv(root, line.images.csv)
    classes = line.classes
    known = set(classes.labels) | set(classes.merge) | set(classes.drop)
    unknown = sorted({item.raw_label for item in items} - known)
    if unknown:
        raise UsageError(
            f"the images have labels the profile does not know: {', '.join(unknown)}",
            expected=", ".join(sorted(known)),
            fix="add them to classes.labels, or to classes.merge or classes.drop",
        )
    kept = [item for item in items if item.raw_label not in classes.drop]
    found = {label_of(classes, item) for item in kept}
    absent = [label for label in classes.labels if label not in found]
    if absent:
        raise UsageError(
            f"no image of class {', '.join(absent)}",
            expected=f"images of each of {', '.join(classes.labels)}",
            found=f"images of {', '.join(sorted(found)) or 'no class'}",
            fix="add images, or take the label out of classes.labels",
        )
    return kept


def label_of(classes: Classes, item: Item) -> str:
    """The label of a picture after merging."""
    return classes.merge.get(item.raw_label, item.raw_label)


def _duplicates(pictures: Sequence[Picture]) -> list[list[str]]:
    places: dict[str, list[str]] = defaultdict(list)
    for picture in pictures:
        places[picture.content].append(picture.item.path)
    return [paths for paths in places.values() if len(paths) > 1]


def _report(
    line: LineProfile, pictures: Sequence[Picture], unreadable: Sequence[Unreadable], splits: Sequence[str]
) -> dict[str, Any]:
    labels = [label_of(line.classes, picture.item) for picture in pictures]
    counts = {
        label: Counter(part for part, own in zip(splits, labels, strict=True) if own == label)
        for label in line.classes.labels
    }
    sizes = Counter(f"{picture.width}x{picture.height}" for picture in pictures)
    leaking = leaks(splits, [picture.content for picture in pictures])
    by_path = {picture.item.path: label for picture, label in zip(pictures, labels, strict=True)}
    duplicates = _duplicates(pictures)
    return {
        "images": len(pictures),
        "classes": {label: {part: counts[label][part] for part in SPLITS} for label in counts},
        "sizes": dict(sizes.most_common()),
        "unreadable": [{"path": bad.item.path, "reason": bad.reason} for bad in unreadable],
        "duplicates": duplicates,
        "contradictions": [paths for paths in duplicates if len({by_path[path] for path in paths}) > 1],
        "leaks": [[pictures[i].item.path for i in same] for same in leaking],
        "parted_groups": parted_groups(splits, [picture.item.group for picture in pictures]),
    }


def _split(line: LineProfile, pictures: Sequence[Picture]) -> list[str]:
    """The split of every picture: all that no operator corrected are split as if the corrected ones were not there.

    So the test pictures stay the very same when corrected ones are added, and old and new networks can be compared.
    """
    own = [picture for picture in pictures if not picture.item.corrected]
    parts = iter(
        split(
            [picture.item.raw_label for picture in own],
            [picture.item.split for picture in own],
            [picture.item.group for picture in own],
            [picture.content for picture in own],
            line.images.split,
            line.images.split_seed,
        )
    )
    return ["train" if picture.item.corrected else next(parts) for picture in pictures]


def prepare(
    line: LineProfile, root: Path, items: Sequence[Item], folder: Path, tick: Callable[[], None]
) -> dict[str, Any]:
    """Decode, check and split; write images.npy, index.json and check.json into `folder`; return the check."""
    pictures, unreadable = decode_all(root, items, line.input, tick)
    if not pictures:
        raise UsageError(f"none of the {len(items)} pictures in {root} can be read", found=unreadable[0].reason)
    labels = [label_of(line.classes, picture.item) for picture in pictures]
    splits = _split(line, pictures)
    report = _report(line, pictures, unreadable, splits)
    index = [
        {
            "path": p.item.path,
            "raw_label": p.item.raw_label,
            "label": label,
            "split": part,
            "content": p.content,
        }
        for p, label, part in zip(pictures, labels, splits, strict=True)
    ]
    write_array(folder / "images.npy", np.stack([picture.pixels for picture in pictures]))
    write_json(folder / "index.json", index)
    write_json(folder / "check.json", report)
    return report


def problems(check: dict[str, Any]) -> list[str]:
    """What in a data check forbids a run, one sentence each."""
    found = []
    for same in check["leaks"][:5]:
        found.append(f"the same picture stands in two splits: {', '.join(same)}; keep one, or move both to one split")
    if len(check["leaks"]) > 5:
        found.append(f"... and {len(check['leaks']) - 5} more pictures that leak between splits")
    if check["parted_groups"]:
        found.append(f"groups stand in two splits: {', '.join(check['parted_groups'][:5])}; keep each in one")
    bad, total = len(check["unreadable"]), check["images"] + len(check["unreadable"])
    if bad > UNREADABLE_LIMIT * total:
        found.append(
            f"{bad} of {total} files cannot be read, more than the {UNREADABLE_LIMIT:.0%} that may be "
            f"left out; first: {check['unreadable'][0]['path']}: {check['unreadable'][0]['reason']}"
        )
    for label, counts in check["classes"].items():
        empty = [part for part, number in counts.items() if number == 0]
        if empty:
            found.append(f"class {label} has no image in {', '.join(empty)}; add images or regroup")
    return found


def load(line: LineProfile, folder: Path) -> Dataset:
    """Read what `prepare` wrote; images are mapped, not copied.

    Raises:
        UsageError: if the check found leaks, parted groups, too many unreadable files or an empty split.
    """
    found = problems(read_json(folder / "check.json"))
    if found:
        raise UsageError(
            "the images are not fit for a run:\n  " + "\n  ".join(found), fix="`factory check-data` shows all"
        )
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    index = read_json(folder / "index.json")
    labels = np.array([line.classes.labels.index(row["label"]) for row in index], np.int64)

    def part(name: str) -> Part:
        rows = [i for i, row in enumerate(index) if row["split"] == name]
        return Part(
            np.ascontiguousarray(images[rows]),
            labels[rows],
            tuple(index[i]["path"] for i in rows),
            tuple(index[i]["raw_label"] for i in rows),
        )

    good = None if line.classes.good is None else line.classes.labels.index(line.classes.good)
    return Dataset(line.classes.labels, good, part("train"), part("val"), part("test"))
