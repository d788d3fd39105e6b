"""What a person decides about one station: the file station.toml in its folder, every key with a default."""

import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from export.runtime.errors import BundleRefused, UsageError
from export.runtime.strictjson import shape

NAME: Final = "station.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """``keep_passes`` is the share of passed parts whose picture is kept, ``pictures_mb`` the room for all of them."""

    keep_passes: float = 0.01
    pictures_mb: float = 2000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """A picture is whole once its file has not changed for ``settle_ms``; one that cannot be read is waited for until
    it has not changed for ``give_up_ms``.
    """

    settle_ms: float = 50.0
    give_up_ms: float = 2000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbationSettings:
    """A version just installed gives way to the one before if, within its first ``parts``, it fails, or takes longer
    than its budget for ``slow_parts`` in a row while the one before keeps it, or, with ``on_drift``, drift is found.
    """

    parts: int = 1000
    slow_parts: int = 20
    on_drift: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSettings:
    """How many parts shall pass, on average, between two alarms while nothing drifts.

    Of ``one_in`` parts one is watched: as many as resemble each other, such as a batch, which would else be an alarm.
    """

    parts_between_false_alarms: int = 100_000
    one_in: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``fault`` is the verdict on a part that could not be judged, or whose verdict could not be put on record."""

    fault: Literal["review", "reject"] = "review"
    log: LogSettings = field(default_factory=LogSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    probation: ProbationSettings = field(default_factory=ProbationSettings)
    drift: DriftSettings = field(default_factory=DriftSettings)


def read_settings(store: Path) -> Settings:
    """Return the settings of the station whose folder is ``store``; the defaults where no file is.

    Raises UsageError for a file that cannot be read, an unknown key, or a value out of its range.
    """
    path = store / NAME
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}", found=str(error), fix="Correct the file, or remove it") from error
    try:
        settings = shape(Settings, _over(asdict(Settings()), given), NAME)
    except BundleRefused as error:
        raise UsageError(error.message, expected=error.expected, found=error.found, fix=f"Correct {path}") from error
    for wrong, problem in _out_of_range(settings):
        if wrong:
            raise UsageError(f"{path} makes no sense", expected=problem, found="another value", fix="Correct it")
    return settings


def _over(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What was given over what was not: strict shapes want every key."""
    merged = {
        name: _over(defaults[name], value)
        if isinstance(value, dict) and isinstance(defaults.get(name), dict)
        else value
        for name, value in given.items()
    }
    return defaults | merged


def _out_of_range(settings: Settings) -> list[tuple[bool, str]]:
    log, watch, probation = settings.log, settings.watch, settings.probation
    return [
        (not 0 <= log.keep_passes <= 1, "log.keep_passes from 0 to 1"),
        (log.pictures_mb < 0, "log.pictures_mb of 0 or more"),
        (not 0 <= watch.settle_ms <= watch.give_up_ms, "watch.settle_ms from 0 to watch.give_up_ms"),
        (probation.parts < 0 or probation.slow_parts < 1, "probation.parts of 0, probation.slow_parts of 1 or more"),
        (settings.drift.parts_between_false_alarms < 100, "drift.parts_between_false_alarms of 100 or more"),
        (settings.drift.one_in < 1, "drift.one_in of 1 or more"),
    ]
