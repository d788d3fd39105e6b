"""Profiles as TOML files: found by name, checked, and refused with file, key and allowed range."""

import difflib
import json
import tomllib
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import ValidationError

from export.runtime.errors import UsageError
from factory.profiles.device import DeviceProfile
from factory.profiles.line import LineProfile
from factory.refusal import explain

SHIPPED: Final = next(
    (folder for folder in (Path(__file__).parent.parent / "shipped_profiles",) if folder.is_dir()),
    Path(__file__).parent.parent.parent / "profiles",
)

Profile = TypeVar("Profile", LineProfile, DeviceProfile)


def _read(path: Path, model: type[Profile]) -> Profile:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}", fix="correct that line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    if "name" in table:
        raise UsageError(f"{path}: name: unknown key; a profile is named by its file, {path.stem!r}")
    try:  # through JSON: strict about types, but a TOML array may fill a tuple
        return model.model_validate_json(json.dumps(table | {"name": path.stem}, default=str))
    except ValidationError as error:
        lines = [explain(detail, model) for detail in error.errors()]
        raise UsageError(f"{path} is not a valid profile:\n  " + "\n  ".join(lines)) from None


def available(kind: Literal["lines", "devices"]) -> dict[str, Path]:
    """Profiles by name: those of `profiles/` in the working folder, over those that came with the tool."""
    folders = (SHIPPED / kind, Path("profiles") / kind)
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


_NEW: Final = {
    "lines": "`factory init NAME --images DIR` writes a new line profile",
    "devices": "write profiles/devices/NAME.toml, like those that are there",
}


def find_profile(name: str, kind: Literal["lines", "devices"]) -> Path:
    """The file of a profile, by name under profiles/ or by path.

    Raises:
        UsageError: naming what there is.
    """
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise UsageError(f"no profile at {name}", fix="check the path, or give a name under profiles/")
        return Path(name)
    known = available(kind)
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(
        f"no {kind[:-1]} profile named {name!r}",
        expected=f"one of {', '.join(sorted(known)) or '(none)'}, or a path to a .toml file",
        found=repr(name),
        fix=hint + _NEW[kind],
    )


def load_line(name: str) -> tuple[LineProfile, Path]:
    """Return a line profile and its images' root folder, by name under profiles/lines or by path to a TOML file.

    Raises:
        UsageError: naming the file, the key and what is allowed.
    """
    path = find_profile(name, "lines")
    line = _read(path, LineProfile)
    teacher = line.training.teacher
    if teacher is not None and teacher.kind.endswith(".pt2"):
        program = (path.parent / teacher.kind).resolve()
        if not program.is_file():  # told now, since it is opened only behind the other trainings
            raise UsageError(f"{path}: training.teacher.kind: no file {program}", fix="put it there or name it rightly")
        beside = teacher.model_copy(update={"kind": str(program)})
        line = line.model_copy(update={"training": line.training.model_copy(update={"teacher": beside})})
    return line, (path.parent / line.images.root).resolve()


def load_device(name: str) -> DeviceProfile:
    """Return a device profile by name.

    Raises:
        UsageError: naming the file, the key and what is allowed.
    """
    return _read(find_profile(name, "devices"), DeviceProfile)


def engine_device(name: str) -> DeviceProfile:
    """Return the profile of a device beside the budget's own, for which an engine is built.

    Raises:
        UsageError: as `load_device`, and if the device runs the ONNX model itself.
    """
    device = load_device(name)
    _ = device.engine
    return device
