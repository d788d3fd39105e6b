"""From a model, its engines and its golden pictures to a signed bundle folder, whole or not at all."""

import dataclasses
import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from onnx.external_data_helper import uses_external_data

from export.build.precision import precision_of
from export.runtime.contents import MANIFEST_NAME, check_paths
from export.runtime.decision import decide
from export.runtime.errors import BundleRefused, UsageError
from export.runtime.files import flush
from export.runtime.golden import Frame, GoldenScores, read_golden
from export.runtime.manifest import Draft, FileEntry, Manifest, Role, Signer, canonical_bytes
from export.runtime.trust import key_id, load_private, sign_bundle, verify_bundle


def pack(
    destination: Path,
    *,
    draft: Draft,
    files: Mapping[str, tuple[Role, Path | bytes]],
    key: Path,
    signer_name: str,
) -> Path:
    """Write and sign a bundle folder; return its path.

    ``files`` maps each path in the bundle to its role and content, ``key`` is the private key's file.

    The folder appears under its name only once it is whole, on disk, and verified as a station does.

    Raises UsageError where the destination exists or the key or a file cannot be read, and BundleRefused
    where the result would not verify, or a model keeps weights outside its file or computes in another
    precision than the draft says.
    """
    if os.path.lexists(destination):
        raise UsageError(
            f"{destination} exists already",
            expected="a new folder",
            found="something there",
            fix="Name another destination; a bundle is never changed",
        )
    private = load_private(key)
    check_paths(files)
    contents = {path: (role, _content(source)) for path, (role, source) in files.items()}
    for role, data in contents.values():
        if role == "model":
            _check_self_contained(data)
    _check_precision(draft, contents)
    manifest = _manifest(draft, contents, private, signer_name)
    partial = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.partial")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        _write(partial, manifest, contents, private)
        partial.rename(destination)
        flush(destination.parent)
    except OSError as error:
        fix = "Free some space or name another folder"
        raise UsageError(f"cannot write {destination}", found=error.strerror, fix=fix) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return destination


def golden_scores(
    paths: Sequence[str],
    scores: NDArray[np.floating],
    *,
    labels: Sequence[str],
    good: str | None,
    threshold: float | None,
) -> bytes:
    """Return the golden scores file of pictures at ``paths`` in the bundle, with probabilities (N, K).

    Raises as ``decide`` does.
    """
    decisions = decide(scores, labels, good, threshold)
    rows = np.asarray(scores, dtype=np.float64).tolist()
    frames = tuple(
        Frame(
            path=path,
            scores=dict(zip(labels, row, strict=True)),
            verdict=decision.verdict,
            label=decision.label,
        )
        for path, row, decision in zip(paths, rows, decisions, strict=True)
    )
    return canonical_bytes(GoldenScores(frames=frames))


def _content(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot pack {source}", found=error.strerror, fix="Name a file that exists") from error


def _check_self_contained(model: bytes) -> None:
    # A runtime looks for such weights beside the process, where nothing vouches for them.
    graph = onnx.load_model_from_string(model).graph
    outside = [tensor.name for tensor in graph.initializer if uses_external_data(tensor)]
    if outside:
        raise BundleRefused(
            "the model keeps weights outside its file",
            expected="every weight in the ONNX file",
            found=", ".join(outside),
            fix="Save the model without external data",
        )


def _check_precision(draft: Draft, contents: Mapping[str, tuple[Role, bytes]]) -> None:
    for model in (draft.model, *(variant.model for variant in draft.variants)):
        _, data = contents.get(model.path, ("model", None))
        found = (
            None if data is None else precision_of(data)
        )  # a file that is missing is told when the bundle is verified
        if found not in (None, model.precision):
            raise BundleRefused(
                f"{model.path} is not of the precision that is told of it",
                expected=model.precision,
                found=found,
                fix="Name the precision the model computes in",
            )


def _manifest(
    draft: Draft, contents: Mapping[str, tuple[Role, bytes]], private: Ed25519PrivateKey, signer_name: str
) -> Manifest:
    entries = tuple(
        FileEntry(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest(), role=role)
        for path, (role, data) in sorted(contents.items())
    )
    known = {field.name: getattr(draft, field.name) for field in dataclasses.fields(Draft)}
    return Manifest(**known, files=entries, signer=Signer(key_id=key_id(private.public_key()), name=signer_name))


def _write(
    folder: Path,
    manifest: Manifest,
    contents: Mapping[str, tuple[Role, bytes]],
    private: Ed25519PrivateKey,
) -> None:
    folder.mkdir()
    for path, (_, data) in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / MANIFEST_NAME).write_bytes(canonical_bytes(manifest))
    sign_bundle(folder, private)
    public = private.public_key()
    verified = verify_bundle(folder, {key_id(public): public})
    for golden in (manifest.golden, *(variant.golden for variant in manifest.variants)):
        read_golden(verified.manifest, verified.contents, golden)
    for written in (folder, *folder.rglob("*")):
        flush(written)
