"""Latencies of a device that is not this machine: what its station measured, and what is still wanted of it.

The first lie in `profiles/devices/<device>.measured.json`, the second as ONNX files under
`<runs>/devices/<device>.wanted`. Either knows a network by the SHA-256 of its file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from export.runtime.errors import BundleRefused, EnvironmentLacks, UsageError
from export.runtime.kit import Device, Frame, Measurements
from export.runtime.manifest import JsonObject
from export.runtime.strictjson import canonical_bytes, read_json, shape
from export.runtime.timing import Summary
from factory.profiles import SHIPPED, DeviceProfile
from factory.workspace import sha256, write_atomic

SCHEMA: Final = 1


class Unmeasured(EnvironmentLacks):
    """The station of a device has yet to measure some networks."""

    @classmethod
    def of(cls, several: Sequence["Unmeasured"]) -> "Unmeasured":
        """One error for several devices."""
        if len(several) == 1:
            return several[0]
        fixes = [str(error.fix) for error in several]
        return cls(" and ".join(error.message for error in several), fix="\n".join(fixes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One network: what it takes, and what was measured."""

    frame: Frame
    latency: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """One file that came from a station: which, who signed it, and how the machine was at the time."""

    kit: str
    created: str
    key_id: str
    networks: int
    circumstances: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that is known of a device. A network's first measurement stays: with the same book a search is the same."""

    schema: Literal[1] = SCHEMA
    device: Device
    identity: JsonObject
    networks: dict[str, Entry]
    files: tuple[Carried, ...]


def settings_of(device: DeviceProfile) -> Device:
    """What of a profile a station needs to know to measure as the profile says."""
    return Device(name=device.name, runtime=device.runtime, threads=device.threads)


def measured_path(name: str) -> Path:
    """Where the measurements of a device are kept: with the profiles of the working folder."""
    return Path("profiles") / "devices" / f"{name}.measured.json"


def load_measured(device: DeviceProfile) -> Measured | None:
    """What was measured of a device, in the working folder or, if it has none, shipped with the tool.

    Raises:
        UsageError: if the file is not sound, or was measured with other settings than the profile's.
    """
    for path in (measured_path(device.name), SHIPPED / "devices" / measured_path(device.name).name):
        if path.is_file():
            measured = _read(path)
            again = f"put the profile back as it was, or delete {path} and measure again"
            _refuse_another("with other settings", str(path), settings_of(device), measured.device, again)
            return measured
    return None


def add(device: DeviceProfile, found: Measurements) -> tuple[Path, int]:
    """Take what a station measured among the measurements of its device; return their file and how many are new.

    Raises:
        UsageError: if it was measured for another device, with other settings, or on another machine than the rest.
    """
    path = measured_path(device.name)
    if found.device.name != device.name:
        raise UsageError(
            "the file was measured for another device",
            expected=device.name,
            found=found.device.name,
            fix=f"factory measure {found.device.name} --read FILE takes it",
        )
    anew = "the profile has changed since the kit was packed: pack a new one with --kit"
    _refuse_another("with other settings", "the file", settings_of(device), found.device, anew)
    known = load_measured(device) or Measured(device=found.device, identity=found.identity, networks={}, files=())
    other = f"measure on the machine that was measured first, or delete {path} to begin anew with this one"
    _refuse_another("on another machine", "the file", known.identity, found.identity, other)
    fresh = {r.sha256: Entry(frame=r.frame, latency=r.latency) for r in found.results if r.sha256 not in known.networks}
    carried = Carried(
        kit=found.kit,
        created=found.created,
        key_id=found.signer.key_id,
        networks=len(found.results),
        circumstances=found.circumstances,
    )
    if fresh:
        path.parent.mkdir(parents=True, exist_ok=True)
        both = replace(known, networks=known.networks | fresh, files=(*known.files, carried))
        write_atomic(path, canonical_bytes(both))
    return path, len(fresh)


def _refuse_another(kind: str, where: str, expected: object, found: object, fix: str) -> None:
    """Raise UsageError, naming the fields that differ, unless both are the same."""
    left, right = (dict(_table(value)) for value in (expected, found))
    other = [name for name in left | right if left.get(name) != right.get(name)]
    if other:
        raise UsageError(
            f"{where} was measured {kind}",
            expected=", ".join(f"{name} {left.get(name, 'unknown')}" for name in other),
            found=", ".join(f"{name} {right.get(name, 'unknown')}" for name in other),
            fix=fix,
        )


def _table(value: object) -> Mapping[str, object]:
    table = read_json(canonical_bytes(value), "a table")
    assert isinstance(table, dict)
    return table


def _read(path: Path) -> Measured:
    try:
        return shape(Measured, read_json(path.read_bytes(), path.name), path.name)
    except BundleRefused as error:
        raise UsageError(
            f"{path} cannot be used: {error.message}",
            expected=error.expected,
            found=error.found,
            fix="delete it and read the station's files again",
        ) from None


# what is still wanted


def _folder(runs: Path, name: str) -> Path:
    return runs / "devices" / f"{name}.wanted"


def want(runs: Path, name: str, frame: Frame, models: Sequence[bytes]) -> None:
    """Remember networks that a station has to measure."""
    folder = _folder(runs, name) / f"{frame.height}x{frame.width}x{frame.channels}-{frame.classes}"
    folder.mkdir(parents=True, exist_ok=True)
    for model in models:
        path = folder / f"{sha256(model)}.onnx"
        if not path.exists():
            write_atomic(path, model)


def wanted(runs: Path, name: str) -> Iterator[tuple[Frame, Path]]:
    """The networks that a station has to measure."""
    for path in sorted(_folder(runs, name).glob("*x*x*-*/*.onnx")):
        shape_text, _, classes = path.parent.name.partition("-")
        height, width, channels = map(int, shape_text.split("x"))
        yield Frame(height=height, width=width, channels=channels, classes=int(classes)), path


def forget(runs: Path, name: str, measured: Measurements) -> None:
    """Want no longer what was measured."""
    known = {result.sha256 for result in measured.results}
    for _, path in list(wanted(runs, name)):
        if path.stem in known:
            path.unlink()


def unmeasured(runs: Path, name: str, lacking: int, asked: int, because: str) -> Unmeasured:
    """The error that says what to carry where, and why it is not measured here."""
    own = "" if runs == Path("runs") else f" --runs {runs}"
    return Unmeasured(
        f"{lacking} of {asked} networks are not measured on device {name!r}, which is not this machine ({because})",
        expected=f"their latencies in {measured_path(name)}",
        found=f"{asked - lacking} of {asked}",
        fix=(
            "They are remembered. Carry them to the station and back, then give this command again:\n"
            f"  factory measure {name} --kit kit{own}\n"
            f"  station measure kit --out {name}.measured        (at the station)\n"
            f"  factory measure {name} --read {name}.measured --trust station.key.pub{own}"
        ),
    )
