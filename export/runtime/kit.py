"""What travels to a station to be measured there, and what comes back: a signed folder, and one signed file.

The file has two lines: the canonical JSON of the measurements, and the signature over it in hex.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from export.runtime.contents import check_paths, read_contents
from export.runtime.errors import BundleRefused, EnvironmentLacks
from export.runtime.manifest import FileEntry, JsonObject, Runtime, Signer, bundle_id
from export.runtime.strictjson import canonical_bytes, read_json, shape
from export.runtime.timing import Summary
from export.runtime.trust import SIGNATURE_BYTES, check_signer, read_signed_manifest, sign, unreadable, verify

SCHEMA: Final = 1
KIT_DOMAIN: Final = b"edge-model-factory measurement kit v1\n"
MEASUREMENTS_DOMAIN: Final = b"edge-model-factory measurements v1\n"
MAX_MEASUREMENTS_BYTES: Final = 16 << 20
_TIME: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The device that is measured, as its profile names it, and how it is asked to compute."""

    name: str
    runtime: Runtime
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The picture a network takes, in pixels, and the number of classes it tells apart."""

    height: int
    width: int
    channels: int
    classes: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels}, {self.classes} classes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One ONNX file of a kit: its path, bytes and SHA-256, by which it is known everywhere."""

    path: str
    size: int
    sha256: str
    frame: Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class KitManifest:
    """What a kit says of itself."""

    schema: Literal[1] = SCHEMA
    kind: Literal["measurement-kit"] = "measurement-kit"
    created: str
    device: Device
    input_name: str
    output_name: str
    networks: tuple[Network, ...]
    signer: Signer


@dataclass(frozen=True, slots=True)
class Kit:
    """A kit whose signature and every hash held, with the very bytes that were hashed, by SHA-256."""

    id: str
    manifest: KitManifest
    contents: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was measured of one network: the figures of one frame at a time, transfers included."""

    sha256: str
    frame: Frame
    latency: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What a station measured of a kit, on what, and under which circumstances (`export.runtime.fingerprint`)."""

    schema: Literal[1] = SCHEMA
    kind: Literal["measurements"] = "measurements"
    created: str
    kit: str
    device: Device
    identity: JsonObject
    circumstances: JsonObject
    results: tuple[Result, ...]
    signer: Signer


def read_kit(folder: Path, trusted: Mapping[str, Ed25519PublicKey]) -> Kit:
    """Return the kit in ``folder``, every byte of it vouched for by one of the trusted keys.

    Nothing is parsed before the signature over it, or its hash in the signed manifest, holds. Raises BundleRefused
    naming the first thing wrong, and EnvironmentLacks for a kit of another schema version.
    """
    try:
        data, signer = read_signed_manifest(folder, trusted, KIT_DOMAIN, "kit")
        manifest = _parse(KitManifest, data, "the kit's manifest")
        check_signer(manifest.signer.key_id, signer)
        check_paths(network.path for network in manifest.networks)
        _check_networks([(n.sha256, n.frame) for n in manifest.networks], manifest.created, "kit")
        files = [FileEntry(path=n.path, size=n.size, sha256=n.sha256, role="model") for n in manifest.networks]
        contents = read_contents(folder, files, "kit")
    except OSError as error:
        raise unreadable(error, "kit") from error
    return Kit(bundle_id(data), manifest, {n.sha256: contents[n.path] for n in manifest.networks})


def measurements_bytes(measurements: Measurements, private: Ed25519PrivateKey) -> bytes:
    """Return the signed file."""
    line = canonical_bytes(measurements)
    return line + sign(line, private, MEASUREMENTS_DOMAIN).hex().encode() + b"\n"


def read_measurements(path: Path, trusted: Mapping[str, Ed25519PublicKey]) -> Measurements:
    """Return what a station measured, from the file that it signed with a trusted key.

    Raises BundleRefused where it is not a whole file of that kind or not what was signed, and EnvironmentLacks for one
    of another schema version.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_MEASUREMENTS_BYTES + 1)
    except OSError as error:
        raise unreadable(error, "file") from error
    head, newline, tail = data.partition(b"\n")
    if len(data) > MAX_MEASUREMENTS_BYTES or not re.fullmatch(rb"[0-9a-f]{%d}\n" % (2 * SIGNATURE_BYTES), tail):
        raise BundleRefused(
            f"{path} is no whole file of measurements",
            expected="a line of JSON and a line with its signature, as `station measure` writes them",
            found=f"{len(data)} bytes, cut short or of another kind",
            fix="Copy it again from the station",
        )
    line = head + newline
    signer = verify(line, bytes.fromhex(tail.decode().strip()), trusted, MEASUREMENTS_DOMAIN, "file of measurements")
    measurements = _parse(Measurements, line, "the file of measurements")
    check_signer(measurements.signer.key_id, signer)
    _check_networks([(r.sha256, r.frame) for r in measurements.results], measurements.created, "file of measurements")
    if any(not result.latency.p50_ms > 0 for result in measurements.results):
        raise BundleRefused("the file of measurements holds a latency that is not above 0", fix="Measure again")
    return measurements


def sha256(data: bytes) -> str:
    """Return the name by which an ONNX file is known: its SHA-256 in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def _parse(kind: type[T], data: bytes, name: str) -> T:
    value = read_json(data, name)
    schema = value.get("schema") if isinstance(value, dict) else None
    if type(schema) is int and schema != SCHEMA:
        raise EnvironmentLacks(
            f"{name} is of another version",
            expected=f"schema {SCHEMA}",
            found=f"schema {schema}",
            fix="Bring workstation and station to one version of the software, then make it again",
        )
    return shape(kind, value, name)


def _check_networks(networks: Sequence[tuple[str, Frame]], created: str, what: str) -> None:
    names = [name for name, _ in networks]
    for wrong, problem in (
        (not re.fullmatch(_TIME, created, re.ASCII), "created is no UTC time"),
        (not names, "there are no networks"),
        (len(set(names)) != len(names), "a network stands in it twice"),
        (not all(re.fullmatch("[0-9a-f]{64}", name) for name in names), "a network has no sound hash"),
        (
            any(min(f.height, f.width, f.channels) < 1 or f.classes < 2 for _, f in networks),
            "a size or count is too small",
        ),
    ):
        if wrong:
            raise BundleRefused(f"the {what} contradicts itself: {problem}", fix="Make it again")
