"""Signed bundles, and seeded ways to spoil them such that each must be refused."""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from export.runtime.contents import MANIFEST_NAME, MAX_DEPTH, MAX_FILES, MAX_PATH, SIGNATURE_NAME
from export.runtime.image import RESIZE_RULE
from export.runtime.keys import key_id
from export.runtime.kit import KIT_DOMAIN
from export.runtime.manifest import (
    DecisionRule,
    DeviceContract,
    Draft,
    Engine,
    FileEntry,
    Golden,
    Input,
    Manifest,
    Model,
    Output,
    Role,
    Signer,
    Variant,
    canonical_bytes,
)
from export.runtime.statement import RevokedKey, Statement, TrustedKey
from export.runtime.trust import DOMAIN, sign, sign_bundle

FREE = frozenset({"budget", "acceptance", "chain", "provenance"})  # recorded, and of any shape
OUTSIDE = "outside"  # a folder beside the bundle, with what a mutant may point at
CONTENT = {
    "golden/000.png": b"\x89PNG first picture", "golden/001.png": b"\x89PNG second picture",
    "golden/scores.json": b"{}\n", "model.onnx": b"\x08\x0amodel" * 40, "reference.json": b"[]\n",
    "report/report.html": b"<p>fine</p>",
}  # fmt: skip
ROLES: dict[str, Role] = {
    "reference.json": "reference",
    "png": "golden-frame",
    "json": "golden-scores",
    "onnx": "model",
    "html": "report",
    "engine": "engine",
}
Mutation = Callable[[Random, Path, Ed25519PrivateKey], None]


def draft() -> Draft:
    return Draft(
        line="cells-3", created="2025-01-31T12:00:00Z",
        device=DeviceContract(name="bench", runtime="onnxruntime-cpu", precision="fp32"),
        labels=("good", "scratch", "dent"), good="good", decision=DecisionRule(rule="threshold", threshold=0.4),
        input=Input(name="image", height=8, width=8, channels=1, colour="grey", resize=RESIZE_RULE),
        output=Output(name="logits"), model=Model(path="model.onnx", precision="fp32", opset=18), engines=(),
        golden=Golden(path="golden/scores.json", tolerance=1e-4), threads=1, budget={"ms": 5.0},
        reference="reference.json", acceptance={"escapes": 0}, chain={"best": None}, provenance={"seeds": [1, 2]},
    )  # fmt: skip


def _role(path: str) -> Role:
    return ROLES[path if path in ROLES else path.rsplit(".", maxsplit=1)[-1]]


def manifest_of(asked: Draft, content: dict[str, bytes], identity: str) -> Manifest:
    files = tuple(
        FileEntry(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest(), role=_role(path))
        for path, data in content.items()
    )
    known = {field.name: getattr(asked, field.name) for field in fields(asked)}
    return Manifest(**known, files=files, signer=Signer(key_id=identity, name="W1"))


def with_engine() -> Manifest:
    """A manifest of everything there may be: an engine, and the network in another precision."""
    sha256 = hashlib.sha256(CONTENT["model.onnx"]).hexdigest()
    engine = Engine(
        path="engines/a.engine", runtime="tensorrt", precision="fp16", version="10.16.1.11", targets=("8.6",),
        batch=(1, 1, 16), hardware="same-capability", version_compatible=False, model_sha256=sha256,
    )  # fmt: skip
    half = Variant(
        model=Model(path="half.onnx", precision="fp16", opset=18),
        decision=DecisionRule(rule="threshold", threshold=0.5),
        golden=Golden(path="golden/half.json", tolerance=0.01),
    )
    content = {**CONTENT, "engines/a.engine": b"engine", "half.onnx": b"half", "golden/half.json": b"{}"}
    return manifest_of(replace(draft(), engines=(engine,), variants=(half,)), content, "0" * 16)


def statement() -> Statement:
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = private.public_key()
    key = TrustedKey(key_id=key_id(public), public=public.public_bytes_raw().hex(), name="W1")
    revoked = RevokedKey(key_id="0" * 16, reason="stolen", since="2025-01-31T12:00:00Z")
    oldest = {"cells-3": "2025-01-31T12:00:00Z"}
    return Statement(sequence=2, issued="2025-02-01T12:00:00Z", trusted=(key,), revoked=(revoked,), oldest=oldest)


def write_bundle(folder: Path, private: Ed25519PrivateKey) -> None:
    """A bundle that verifies, and beside it what a mutant may point at."""
    for path, data in CONTENT.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    identity = key_id(private.public_key())
    (folder / MANIFEST_NAME).write_bytes(canonical_bytes(manifest_of(draft(), CONTENT, identity)))
    sign_bundle(folder, private)
    shutil.copytree(folder, folder.parent / OUTSIDE)


def spoil(kind: str, seed: int, folder: Path, private: Ed25519PrivateKey) -> None:
    """Spoil a bundle in one way of a kind."""
    KINDS[kind](Random(f"{kind} {seed}"), folder, private)


def _some_file(rng: Random, folder: Path) -> Path:
    return folder / rng.choice([*CONTENT, MANIFEST_NAME, SIGNATURE_NAME])


def _listed(rng: Random, folder: Path) -> Path:
    return folder / rng.choice(list(CONTENT))


def _bytes(rng: Random, folder: Path, private: Ed25519PrivateKey) -> None:
    path = _some_file(rng, folder)
    before = path.read_bytes()
    data, place = bytearray(before), rng.randrange(len(before))
    way = rng.randrange(5)
    if way == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif way == 1:
        data[place:place] = rng.randbytes(rng.choice((1, 7, 4096)))
    elif way == 2:
        del data[place : place + rng.choice((1, 7, 4096))]
    elif way == 3:
        data[place:] = rng.randbytes(len(data) - place)
    else:
        data = bytearray(rng.randbytes(rng.choice((0, 1, 72, len(data), 70_000))))
    path.write_bytes(data if data != before else before + b"x")


def _cut_or_swapped(rng: Random, folder: Path, private: Ed25519PrivateKey) -> None:
    first, second = rng.sample([*CONTENT, MANIFEST_NAME, SIGNATURE_NAME], 2)
    here, there = (folder / first).read_bytes(), (folder / second).read_bytes()
    way = rng.randrange(4)
    if way == 0:
        (folder / first).write_bytes(here[: rng.randrange(len(here))])
    elif way == 1:
        (folder / first).write_bytes(there)
    elif way == 2:
        (folder / first).write_bytes(there)
        (folder / second).write_bytes(here)
    else:
        (folder / first).write_bytes(here + there)


def _names(rng: Random, folder: Path, private: Ed25519PrivateKey) -> None:
    path = _some_file(rng, folder)
    odd = rng.choice(
        [path.name.upper(), f"{path.name} ", f"{path.name}.", f".{path.name}", "x", "a\u0308", "\u202e", "%2e"]
    )
    way = rng.randrange(6)
    if way == 0:
        path.unlink()
    elif way == 1:
        path.rename(path.with_name(odd))
    elif way == 2:
        shutil.copy(path, path.with_name(odd))
    elif way == 3:
        (folder / "golden" / odd).mkdir()
    elif way == 4:
        path.unlink()
        path.mkdir()
        if rng.random() < 0.5:
            (path / "model.onnx").write_bytes(b"x")
    else:
        deep = folder.joinpath(*(["x"] * rng.randrange(1, 200)))
        deep.mkdir(parents=True)


def _links(rng: Random, folder: Path, private: Ed25519PrivateKey) -> None:
    path = _some_file(rng, folder)
    same = folder.parent / OUTSIDE / path.relative_to(folder)
    way = rng.randrange(7)
    if way == 0:
        name = rng.choice(["golden", "report"])
        shutil.rmtree(folder / name)
        (folder / name).symlink_to(rng.choice([folder.parent / OUTSIDE / name, Path("..") / OUTSIDE / name, Path()]))
        return
    path.unlink()
    if way == 1:
        path.symlink_to(same)
    elif way == 2:
        path.symlink_to(
            rng.choice(["/dev/zero", "/etc/passwd", "nowhere", path.name, "..", f"../{OUTSIDE}/model.onnx"])
        )
    elif way == 3:
        path.hardlink_to(same)
    elif way == 4:
        os.mkfifo(path)
    elif way == 5:
        _socket(path)
    else:
        path.symlink_to(os.path.relpath(same, path.parent))


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's whole path must be short
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(here)


def _sizes(rng: Random, folder: Path, private: Ed25519PrivateKey) -> None:
    """Files that claim terabytes without holding them, and manifests that claim as much, signed."""
    path = _some_file(rng, folder)
    giant = rng.choice((1 << 31, 1 << 40, (1 << 40) + 7))
    way = rng.randrange(4)
    if way in (0, 1):
        os.truncate(path, giant)
        if way == 1 and path.relative_to(folder).as_posix() in CONTENT:
            _signed(folder, private, lambda m: _entry(m, path, folder).update(size=giant))
    elif way == 2:
        claimed = rng.choice((0, 1, -1, 1 << 30, giant, 1 << 62, 10**63, 10**64))
        _signed(folder, private, lambda m: rng.choice(m["files"]).update(size=claimed))
    else:
        many = rng.choice((MAX_FILES, MAX_FILES + 1, 3 * MAX_FILES))
        entry = {"size": 0, "sha256": "0" * 64, "role": "report"}
        _signed(folder, private, lambda m: m["files"].extend(entry | {"path": f"r/{i}"} for i in range(many)))


def _signatures(rng: Random, folder: Path, private: Ed25519PrivateKey) -> None:
    path, data = folder / SIGNATURE_NAME, (folder / MANIFEST_NAME).read_bytes()
    good, stranger = path.read_bytes(), Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
    other = stranger.sign(DOMAIN + data)
    path.write_bytes(rng.choice([
        sign(data, stranger, DOMAIN), other + good[64:], good[:64] + sign(data, stranger, DOMAIN)[64:],
        sign(data, private, b""), sign(data, private, KIT_DOMAIN),
        sign(data[:-1], private, DOMAIN), sign(data + b" ", private, DOMAIN), bytes(72), bytes(64) + good[64:],
        good[::-1], good[32:64] + good[:32] + good[64:], rng.randbytes(64) + good[64:], rng.randbytes(72),
    ]))  # fmt: skip


def _fields(rng: Random, folder: Path, private: Ed25519PrivateKey) -> None:
    """Any field of the manifest, not signed again."""
    manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
    holder, key = rng.choice(list(_places(manifest, free=True)))
    holder[key] = _wrong(rng, holder[key])
    (folder / MANIFEST_NAME).write_bytes(canonical_bytes(manifest))


def _fields_signed(rng: Random, folder: Path, private: Ed25519PrivateKey) -> None:
    """A field that is missing, unknown or of another type, signed again."""

    def edit(manifest: dict[str, Any]) -> None:
        holder, key = rng.choice(list(_places(manifest, free=False)))
        way = rng.randrange(3)
        if way == 0 and isinstance(holder, dict):
            del holder[key]
        elif way == 1 and isinstance(holder, dict):
            holder[rng.choice(["x", "", "Schema", "__class__", "\ud800", "y" * 5000])] = 1
        else:
            holder[key] = _wrong(rng, holder[key])

    _signed(folder, private, edit)


def _wrong(rng: Random, value: object) -> object:
    return rng.choice(
        [[[]], [{}], [[value]]] if isinstance(value, str | dict | int | float | None) else ["x", 1, {}, None]
    )


def _json_signed(rng: Random, folder: Path, private: Ed25519PrivateKey) -> None:
    """What is no JSON, or JSON made to hurt its reader, signed again."""
    data = (folder / MANIFEST_NAME).read_bytes()
    deep = rng.choice((40, 500, 990, 1100, 100_000, 1_500_000))
    data = rng.choice([
        data[: rng.randrange(len(data))], b"", b"\xef\xbb\xbf" + data, data + b"x", data[:-2] + b',"line":"x"}',
        data.replace(b'"ms":5.0', b'"ms":NaN'), data.replace(b'"ms":5.0', b'"ms":1e999'),
        data.replace(b'"ms":5.0', b'"ms":' + b"9" * rng.choice((65, 4300, 4301, 1_000_000))),
        data.replace(b'"ms":5.0', b'"ms":0.' + b"1" * rng.choice((65, 1_000_000))),
        data.replace(b'"ms":5.0', b'"ms":' + b"[" * deep + b"]" * deep),
        data.replace(b'"ms":5.0', b'"ms":' + b'{"x":' * (deep // 4 + 40) + b"1" + b"}" * (deep // 4 + 40)),
        data.replace(b'["good",', b"[" + b"[" * deep + b"]" * deep + b","), b"[" * deep, b'{"x":' * (deep // 4),
        data.replace(b'"good"', b'"\xff"'), data.replace(b'"good"', b'"\x00"'), data.replace(b'"good"', b'"\\ud800"'),
        data.replace(b'"schema":2', b'"schema":3'), data.replace(b'"schema":2', b'"schema":2.0'),
        data.replace(b'"schema":2', b'"schema":true'), data.replace(b'"schema":2', b'"schema":2,"schema":2'),
        b"{" + b",".join(b'"%d":1' % n for n in range(150_000)) + b',"1":2}', data + b" " * (4 << 20), b"null", b"[]",
        data.decode().encode("utf-16"),
    ])  # fmt: skip
    (folder / MANIFEST_NAME).write_bytes(data)
    sign_bundle(folder, private)


def _meaning_signed(rng: Random, folder: Path, private: Ed25519PrivateKey) -> None:
    """A manifest that contradicts itself or the files, signed again."""

    def edit(m: dict[str, Any]) -> None:
        entry = rng.choice(m["files"])
        other = rng.choice([e for e in m["files"] if e["sha256"] != entry["sha256"]])
        changes: list[Callable[[], object]] = [
            lambda: m["files"].remove(entry), lambda: m["files"].append(entry), m["files"].clear,
            lambda: entry.update(sha256=other["sha256"]), lambda: entry.update(sha256=entry["sha256"].upper() + "A"),
            lambda: entry.update(role=rng.choice(["engine", "", "MODEL", "x"])),
            lambda: entry.update(size=entry["size"] + rng.choice((-1, 1, 100))),
            lambda: m["signer"].update(key_id=rng.choice(["0" * 16, "", "x", "../../trusted"])),
            lambda: m.update(labels=rng.choice([[], ["good"], ["good", "good"], ["good", "a\nb"], ["good", ""]])),
            lambda: m.update(good=rng.choice([None, "", "fine"])),
            lambda: m["decision"].update(threshold=rng.choice([None, 0, 1, -1, 2, 1e300])),
            lambda: m["decision"].update(rule="argmax"), lambda: m["golden"].update(tolerance=rng.choice([-1, 1, 2])),
            lambda: m["golden"].update(path=rng.choice(["x", "../x", "model.onnx"])),
            lambda: m["model"].update(path=rng.choice(["x", "../x", "golden/scores.json"])),
            lambda: m["input"].update(height=rng.choice([0, -1, -(10**60)])), lambda: m["input"].update(channels=3),
            lambda: m.update(threads=rng.choice([0, -5])), lambda: m.update(created=rng.choice(["", "now", "2025"])),
            lambda: m["device"].update(batch=rng.choice([[], [1], [0, 1, 1], [2, 1, 4], [1, 1, 1, 1]])),
            lambda: m["device"].update(runtime=rng.choice(["", "tflite", "/bin/sh"])),
        ]  # fmt: skip
        rng.choice(changes)()

    _signed(folder, private, edit)


def _paths_signed(rng: Random, folder: Path, private: Ed25519PrivateKey) -> None:
    """A listed path that leaves the folder, or means another file somewhere, signed again; the file goes there too."""
    path = rng.choice([
        "../x", "golden/../../x", f"../{OUTSIDE}/model.onnx", "/etc/passwd", "/tmp/x", "//server/share", "C:x", "C:\\x",
        "..\\x", "golden\\000.png", "", ".", "./x", "golden//x", "golden/", "x.", "x ", "x/.. /y", "x\x00", "x\ny",
        "MODEL.onnx", "Golden/000.png", "GOLDEN/x", "golden/000.PNG", "model.onnx/x", "golden", "manifest.json",
        "Manifest.SIG", "manifest.json/x", "cafe\u0301", "\uff0e\uff0e/x", "x\uff0fy", "\u202egnp", "x\u200b", "\ufb01",
        "CON", "nul.png", "aux/x", "COM1", "lpt9.txt", "com\u00b9", "x/PRN.tar.gz", "x?", "x*", "a<b", 'a"b', "a|b",
        "\ud800", "x" * (MAX_PATH + 1), "y/" * MAX_DEPTH + "y", "/".join("z" * 1000), "~/x", "$HOME/../x", "file:x",
        "golden/000.png:stream", "golden/000.png::$DATA", "\u212a", "stra\u00dfe/../x", "\ufdfa",
    ])  # fmt: skip
    # Of the report, where another file under that name would be a sound bundle after all.
    old = folder / "report/report.html" if path.casefold() in CONTENT else _listed(rng, folder)
    place = folder / path.replace("\x00", "0")
    if rng.random() < 0.5 and len(path) < 250 and ".." not in path and not path.startswith(("/", "~", "manifest.")):
        with suppress(OSError, ValueError):
            place.parent.mkdir(parents=True, exist_ok=True)
            old.rename(place)

    def edit(manifest: dict[str, Any]) -> None:
        _entry(manifest, old, folder).update(path=path)
        for naming in (manifest["model"], manifest["golden"]):  # so that the path alone is wrong
            if naming["path"] == old.relative_to(folder).as_posix():
                naming["path"] = path
        if manifest["reference"] == old.relative_to(folder).as_posix():
            manifest["reference"] = path

    _signed(folder, private, edit)


def _entry(manifest: dict[str, Any], path: Path, folder: Path) -> Any:
    return next(e for e in manifest["files"] if e["path"] == path.relative_to(folder).as_posix())


def _signed(folder: Path, private: Ed25519PrivateKey, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
    edit(manifest)
    (folder / MANIFEST_NAME).write_bytes(canonical_bytes(manifest))
    sign_bundle(folder, private)


def _places(value: Any, *, free: bool) -> Iterator[tuple[Any, Any]]:
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        if free or key not in FREE:
            yield from _places(value[key], free=free)


KINDS: dict[str, Mutation] = {
    "bytes": _bytes, "cut or swapped": _cut_or_swapped, "names": _names, "links": _links, "sizes": _sizes,
    "signatures": _signatures, "fields": _fields, "fields, signed again": _fields_signed,
    "JSON, signed again": _json_signed, "meaning, signed again": _meaning_signed,
    "paths, signed again": _paths_signed,
}  # fmt: skip
