"""Line profiles that the tool writes: a commented one from a folder of images, and a pilot's word into one."""

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Comment, Table, Whitespace

from export.runtime import image
from export.runtime.errors import ImageRefused, UsageError
from factory.data.index import Item, list_csv, list_folders
from factory.profiles import NAME, find_profile, load_device, load_line
from factory.workspace import write_atomic

LOOKED_AT: Final = 60  # pictures opened to guess size and colour
LIST: Final = "labels.csv"
SIDES: Final = (32, 48, 64)  # a pilot starts small; larger pictures cost time with the square of the side

TEMPLATE: Final = """\
# Line profile {name}: written by `factory init` from {count} images; every guess is explained beside it.

[images]
# A relative root is taken from this file's folder.
root = {root}
layout = "{layout}"{csv_line}
# {split_note}
split = [0.6, 0.2, 0.2]

[classes]
# Found: {found}.
labels = [{labels}]
{good_line}

[input]
# The pictures are {sizes}; {size_note}
height = {height}
width = {width}
# {colour_note}
channels = {channels}

[budget]
# Hard limits at the station: median latency of one frame in milliseconds, size of the model file in 10^6 bytes.
# A guess to begin with: `factory space {name}` says what can be reached.
device = "{device}"
latency_ms = 0.5
size_mb = 1.0

[search]
# Networks scored without training, and how many of them are then trained briefly.
candidates = 600
shortlist = 4

[training]
# About {steps} steps in the full training; raise epochs when the report's curves still climb at the end.
epochs = {epochs}
short_epochs = {short_epochs}
batch = 32

[training.augmentation]
# Only what leaves the label true on YOUR line. Flips and turns are off until you know that a part may lie so.
flip_horizontal = false
flip_vertical = false
quarter_turns = false
shift = 0.02
brightness = 0.05

[acceptance]
{acceptance}
"""


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _look(root: Path, items: list[Item]) -> tuple[list[tuple[int, int]], bool]:
    """(height, width) of some pictures, and whether any has colour."""
    rng = np.random.default_rng(0)
    sizes, colour = [], False
    for row in rng.permutation(len(items))[:LOOKED_AT]:
        try:
            pixels = image.decode(root / items[int(row)].path)
        except ImageRefused:
            continue
        sizes.append((pixels.shape[0], pixels.shape[1]))
        colour |= pixels.ndim == 3 and bool((pixels != pixels[..., :1]).any())
    if not sizes:
        raise UsageError(f"none of the pictures looked at in {root} can be read", fix="`factory check-data` names each")
    return sizes, colour


def _input_size(height: int, width: int) -> tuple[int, int]:
    """The largest of a few usual sides that the pictures have, keeping the aspect to multiples of 16."""
    side = max((s for s in SIDES if s <= min(height, width)), default=SIDES[0])
    scale = side / min(height, width)

    def fitted(pixels: int) -> int:
        return min(1024, max(16, round(pixels * scale / 16) * 16))

    return fitted(height), fitted(width)


def write_profile(name: str, images: Path, good: str | None, device: str) -> Path:
    """Write profiles/lines/NAME.toml and return its path.

    Raises:
        UsageError: if the name or the folder will not do, the good class is not found, or the file exists.
    """
    if not re.fullmatch(NAME, name):
        raise UsageError(
            f"{name!r} is no line name", expected="small letters, digits and '-'", fix="such as steel-surface"
        )
    load_device(device)
    path = Path("profiles") / "lines" / f"{name}.toml"
    if path.exists():
        raise UsageError(f"{path} exists already", fix="edit it, delete it, or choose another name")
    listed = (images / LIST).is_file()
    items = list_csv(images, LIST) if listed else list_folders(images)
    text = _text(name, images, items, good, device, LIST if listed else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    load_line(str(path))
    return path


def _text(name: str, images: Path, items: list[Item], good: str | None, device: str, csv: str | None) -> str:
    counts = Counter(item.raw_label for item in items)
    if good is not None and good not in counts:
        raise UsageError(
            f"no class named {good!r}", expected=f"one of {', '.join(sorted(counts))}", fix="correct --good"
        )
    if len(counts) < 2:
        raise UsageError(
            "a line needs two classes or more", found=f"only {', '.join(counts)}", fix="add images of another"
        )
    sizes, colour = _look(images, items)
    height, width = (int(np.median([s[i] for s in sizes])) for i in (0, 1))
    fitted = _input_size(height, width)
    labels = sorted(counts, key=lambda label: (label != good, label))
    given = any(item.split for item in items)
    epochs = int(np.clip(3000 * 32 / max(1, 0.6 * len(items)), 20, 400))
    return TEMPLATE.format(
        name=name,
        count=len(items),
        root=_quoted(str(images.resolve())),
        layout="folders" if csv is None else "csv",
        csv_line="" if csv is None else f"\ncsv = {_quoted(csv)}",
        split_note=(
            "The images come with splits, which are kept; the shares below fill in a missing validation part."
            if given
            else "No splits were given: these shares are drawn, stratified, equal pictures and groups kept together."
        ),
        found=", ".join(f"{label} ({counts[label]})" for label in labels),
        labels=", ".join(map(_quoted, labels)),
        good_line=(
            f"good = {_quoted(good)}"
            if good is not None
            else "# No good class was named: the line sorts. With one, escape and overkill are judged:\n# good = "
            + _quoted(labels[0])
        ),
        sizes=f"about {width} x {height} pixels",
        size_note=f"they are stretched to {fitted[1]} x {fitted[0]}. Raise both if defects vanish there.",
        height=fitted[0],
        width=fitted[1],
        colour_note="Colour was seen: 3 channels." if colour else "No colour was seen: 1 channel, which is faster.",
        channels=3 if colour else 1,
        device=device,
        steps=epochs * int(0.6 * len(items)) // 32,
        epochs=epochs,
        short_epochs=max(2, epochs // 8),
        acceptance=(
            "# escape_max sets the operating threshold on validation images; all limits are judged on test images.\n"
            "escape_max = 0.05\n# overkill_max = 0.2"
            if good is not None
            else "balanced_accuracy_min = 0.9"
        ),
    )


def _loose_end(table: Table) -> list[Comment | Whitespace]:
    """Take away the comments and blank lines behind the last key: they belong to what follows in the file."""
    body = table.value.body
    if body and isinstance(body[-1][1], Table):
        return _loose_end(body[-1][1])
    last = max((place for place, (key, _) in enumerate(body) if key is not None), default=-1)
    end = [item for _, item in body[last + 1 :] if isinstance(item, Comment | Whitespace)]
    del body[last + 1 :]
    return end


def _with_swapout(text: str, settings: Mapping[str, Any]) -> str:
    """A profile with `settings` as its table training.swapout.

    Raises:
        ValueError: if training is no table that can have one.
    """
    document, table = tomlkit.parse(text), tomlkit.table()
    for key, value in settings.items():
        inline = tomlkit.inline_table()
        table[key] = inline.update(value) or inline if isinstance(value, Mapping) else value
    training: Any = document.setdefault("training", tomlkit.table())
    before = training.get("swapout")
    if not (isinstance(before, Table) and before.display_name):  # no header of its own: the new table comes last
        before = training
    for item in _loose_end(before) if isinstance(before, Table) else ():
        table.add(item)
    training["swapout"] = table
    return tomlkit.dumps(document)


def write_swapout(line: str, settings: Mapping[str, Any]) -> Path:
    """Write `settings`, JSON values, as the table training.swapout into the profile of `line`; all else stays.

    Raises:
        UsageError: if the profile would not be valid with them, or has no table that can be edited; it is then left
            alone.
    """
    path = find_profile(line, "lines")
    load_line(str(path))
    before = path.read_bytes()
    wanted = tomllib.loads(before.decode())
    wanted["training"] = {**wanted.get("training", {}), "swapout": settings}
    try:
        after = _with_swapout(before.decode(), settings)
        edited = tomllib.loads(after) == wanted
    except (ValueError, TOMLKitError):
        edited = False
    if not edited:
        raise UsageError(
            f"{path}: training.swapout cannot be written there",
            expected="a table under the header [training]",
            fix=f"write training so, or write the settings yourself: {dict(settings)}",
        )
    write_atomic(path, after.encode())
    try:
        load_line(str(path))
    except UsageError:
        write_atomic(path, before)
        raise
    return path
