"""What a station adds to a bundle: an engine of its own building, signed by the station's own key.

The bundle stays as it was signed. The record names the bundle by the hash of its manifest, the engine by its hash, and
the GPU it was proven on; all of that is verified before a byte of the engine is used.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography.exceptions import InvalidSignature

from export.runtime.cuda import Gpu
from export.runtime.errors import BundleRefused, EnvironmentLacks
from export.runtime.files import write_atomic
from export.runtime.manifest import Engine, Runtime, bundle_id, canonical_bytes
from export.runtime.station_key import station_key
from export.runtime.strictjson import read_json, shape
from export.runtime.tensorrt_library import rebuild_command
from export.runtime.trust import VerifiedBundle

DOMAIN: Final = b"edge-model-factory station engine v1\n"
FOLDER: Final = "engines"
_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """The record of one engine: of which bundle (the SHA-256 of its manifest), what it is, where it was proven."""

    schema: Literal[1] = 1
    bundle_sha256: str
    engine: Engine
    engine_sha256: str
    gpu: Gpu


def record(store: Path, bundle: VerifiedBundle, engine: Engine, plan: bytes, gpu: Gpu) -> Path:
    """Sign and keep an engine for a bundle; it replaces the one before it, whole or not at all. Returns the record."""
    own = Overlay(bundle_sha256=_sha256(bundle.manifest_bytes), engine=engine, engine_sha256=_sha256(plan), gpu=gpu)
    path = _record_path(store, bundle, engine.runtime)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(_engine_path(path, own.engine_sha256), plan)
    document = canonical_bytes(own)
    write_atomic(path, station_key(store).sign(DOMAIN + document) + document)
    for other in path.parent.glob(f"{path.stem}-*.engine"):
        if other != _engine_path(path, own.engine_sha256):
            other.unlink()
    return path


def read(store: Path, bundle: VerifiedBundle, runtime: Runtime) -> tuple[Overlay, bytes] | None:
    """Return the engine that this station built of this bundle for ``runtime``; None where it built none.

    Raises BundleRefused where the record or the engine is not exactly what this station's key signed for this bundle.
    """
    path = _record_path(store, bundle, runtime)
    if not path.exists():
        return None
    data = path.read_bytes()
    document = data[_SIGNATURE_BYTES:]
    try:
        station_key(store).public_key().verify(data[:_SIGNATURE_BYTES], DOMAIN + document)
    except InvalidSignature as error:
        raise BundleRefused(
            f"{path} was changed, or this station's key did not sign it",
            expected="a signature by the station's key over this record",
            found="one that does not match",
            fix=_fix(runtime),
        ) from error
    own = shape(Overlay, read_json(document, path.name), "overlay")
    here = _sha256(bundle.manifest_bytes)
    if (own.bundle_sha256, own.engine.runtime) != (here, runtime):
        raise BundleRefused(
            f"{path} belongs to another bundle",
            expected=f"{here[:16]} for {runtime}",
            found=f"{own.bundle_sha256[:16]} for {own.engine.runtime}",
            fix=_fix(runtime),
        )
    return own, _read_engine(_engine_path(path, own.engine_sha256), own)


def check_machine(own: Overlay, gpu: Gpu) -> None:
    """Raise EnvironmentLacks unless the engine was proven on such a GPU; another driver shows in the golden scores."""
    if (own.gpu.name, own.gpu.capability) != (gpu.name, gpu.capability):
        raise EnvironmentLacks(
            "this station's own engine was proven on another GPU",
            expected=_spoken(own.gpu),
            found=_spoken(gpu),
            fix=_fix(own.engine.runtime),
        )


def _read_engine(path: Path, own: Overlay) -> bytes:
    try:
        plan = path.read_bytes()
    except FileNotFoundError:
        raise BundleRefused(
            "this station's own engine is gone", expected=str(path), found="no file", fix=_fix(own.engine.runtime)
        ) from None
    if _sha256(plan) != own.engine_sha256:
        raise BundleRefused(
            f"{path} was changed after this station signed it",
            expected=f"SHA-256 {own.engine_sha256}",
            found=_sha256(plan),
            fix=_fix(own.engine.runtime),
        )
    return plan


def _record_path(store: Path, bundle: VerifiedBundle, runtime: Runtime) -> Path:
    return store / FOLDER / bundle_id(bundle.manifest_bytes) / f"{runtime}.signed"


def _engine_path(record_path: Path, sha256: str) -> Path:
    return record_path.with_name(f"{record_path.stem}-{sha256[:16]}.engine")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _fix(runtime: Runtime) -> str:
    return f"Build it again: {rebuild_command(runtime)}"


def _spoken(gpu: Gpu) -> str:
    return f"{gpu.name}, compute capability {gpu.capability}"
