"""Which pictures there are, with what labels: class folders or a CSV list."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from export.runtime.errors import UsageError
from export.runtime.image import IMAGE_SUFFIXES

SPLITS: Final = ("train", "val", "test")
CORRECTED: Final = "from-the-station"  # folder below the root of pictures that operators corrected: BATCH/LABEL/*
_ALIASES: Final = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}


@dataclass(frozen=True, slots=True)
class Item:
    """One picture: its path below the root, the label as found, and what the user fixed about it."""

    path: str
    raw_label: str
    split: str | None = None
    group: str | None = None

    @property
    def corrected(self) -> bool:
        """Whether an operator's correction brought this picture here: it is always trained on, never tested on.

        The network erred on these, so as test pictures they would make the test harder than the line is.
        """
        return self.path.startswith(f"{CORRECTED}/") and self.split in (None, "train")


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _require_folder(root: Path) -> None:
    if not root.is_dir():
        raise UsageError(
            f"no folder of images at {root}",
            expected="the folder named by images.root of the line profile",
            found="a file" if root.exists() else "nothing",
            fix="correct images.root or put the images there",
        )


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of `root` that are named after a split, by split; empty when the layout has none.

    Raises:
        UsageError: if a folder beside `train` is no split, or two are the same split: their images would be lost.
    """
    own = [path for path in _folders(root) if path.name != CORRECTED]
    folders = [(_ALIASES.get(path.name.lower(), path.name.lower()), path) for path in own]
    found = dict(folders)
    if "train" not in found:
        return {}
    if len(found) < len(folders) or not set(found) <= set(SPLITS):
        raise UsageError(
            f"{root} mixes splits with other folders",
            expected="only train, val and test, each once",
            found=", ".join(path.name for _, path in folders),
            fix="move or rename the others",
        )
    return {name: found[name] for name in SPLITS if name in found}


def list_folders(root: Path) -> list[Item]:
    """List `root/<class>/*` or `root/<train|val|test>/<class>/*`, pictures at any depth below a class.

    Corrected pictures, which `factory add-feedback` puts below `root/from-the-station`, come with them.

    Raises:
        UsageError: if the folder is missing, holds no class folders, or a class folder is empty.
    """
    _require_folder(root)
    splits: dict[str, Path] = split_folders(root)
    parts: list[tuple[str | None, Path]] = [*splits.items()] if splits else [(None, root)]
    if (root / CORRECTED).is_dir():
        parts += [("train" if splits else None, batch) for batch in _folders(root / CORRECTED)]
    items = []
    for split, folder in parts:
        for label in _folders(folder):
            if label == root / CORRECTED:
                continue
            pictures = _pictures(label)
            if not pictures:
                raise UsageError(
                    f"class folder {label} is empty",
                    expected=f"pictures ({', '.join(sorted(IMAGE_SUFFIXES))})",
                    found="none",
                    fix="add pictures, or remove the folder and its label",
                )
            items += [Item(path.relative_to(root).as_posix(), label.name, split) for path in pictures]
    if not items:
        raise UsageError(
            f"no class folders in {root}",
            expected="one folder of pictures a class, perhaps below train, val and test",
            found=f"{len(_pictures(root))} pictures and no folder",
            fix="sort the pictures into class folders, or give a CSV list with layout = 'csv'",
        )
    return items


def list_csv(root: Path, name: str) -> list[Item]:
    """List the rows of `root/name`: columns path (below root), label, and optionally split and group.

    Raises:
        UsageError: naming the file, line and column that are wrong.
    """
    _require_folder(root)
    path = root / name
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read: {error}", fix="correct images.csv of the line profile") from None
    missing = {"path", "label"} - set(columns)
    if missing:
        raise UsageError(
            f"{path}: missing column {', '.join(sorted(missing))}",
            expected="path,label and optionally split,group",
            found=",".join(columns) or "an empty file",
            fix="name the columns in the first line",
        )
    return [_row(path, number, row) for number, row in rows]


def _row(path: Path, number: int, row: dict[str, str | None]) -> Item:
    split = (row.get("split") or "").strip().lower() or None
    split = _ALIASES.get(split, split) if split else None
    if split is not None and split not in SPLITS:
        raise UsageError(
            f"{path}, line {number}: unknown split", expected="train, val, test or nothing", found=repr(split)
        )
    picture, label = (row["path"] or "").strip(), (row["label"] or "").strip()
    if not picture or not label:
        raise UsageError(f"{path}, line {number}: path or label is empty", fix="fill it in or delete the line")
    if not (path.parent / picture).is_file():
        raise UsageError(f"{path}, line {number}: no picture at {path.parent / picture}", fix="correct the path")
    return Item(picture, label, split, (row.get("group") or "").strip() or None)
