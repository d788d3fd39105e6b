import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from export.runtime.errors import BundleRefused
from export.runtime.keys import load_private, load_trusted, new_key, public_path
from export.runtime.trust import MAX_MANIFEST_BYTES, VerifiedBundle, sign_bundle, verify_bundle

FILES = (
    "golden/000.png",
    "golden/001.png",
    "golden/002.png",
    "golden/scores.json",
    "model.onnx",
    "reference.json",
    "report/report.html",
)
CHANGED_MANIFEST = "the bundle or its signature was changed"
Resign = Callable[[Path, Callable[[dict[str, Any]], None]], None]


def flip(path: Path, index: int) -> None:
    data = bytearray(path.read_bytes())
    data[index] ^= 1
    path.write_bytes(data)


def refused(bundle: Path, trust: list[Path]) -> str:
    with pytest.raises(BundleRefused) as error:
        verify_bundle(bundle, load_trusted(trust))
    return str(error.value)


def test_a_whole_bundle_verifies_and_gives_the_bytes_it_hashed(bundle: Path, trust: list[Path]) -> None:
    verified: VerifiedBundle = verify_bundle(bundle, load_trusted(trust))
    assert tuple(sorted(verified.contents)) == FILES
    shutil.copytree(bundle, bundle.with_name("copy"))
    (bundle / "model.onnx").write_bytes(b"changed after the check")
    assert verified.contents["model.onnx"] == (bundle.with_name("copy") / "model.onnx").read_bytes()
    assert len((bundle / "manifest.sig").read_bytes()) == 72


@pytest.mark.parametrize(
    ("path", "index", "said"),
    [
        *((path, 7, f"{path} was changed after signing") for path in FILES),
        ("manifest.json", 0, CHANGED_MANIFEST),
        ("manifest.json", 200, CHANGED_MANIFEST),
        ("manifest.json", -1, CHANGED_MANIFEST),
        ("manifest.sig", 0, CHANGED_MANIFEST),
        ("manifest.sig", 63, CHANGED_MANIFEST),
        ("manifest.sig", 64, "signed by a key not trusted here"),
    ],
)
def test_one_bit_changed_is_refused(bundle: Path, trust: list[Path], path: str, index: int, said: str) -> None:
    flip(bundle / path, index)
    assert said in refused(bundle, trust)


def add_file(bundle: Path) -> None:
    (bundle / "golden" / "extra.png").write_bytes(b"x")


def add_folder(bundle: Path) -> None:
    (bundle / "golden" / "empty").mkdir()


def link_file(bundle: Path) -> None:
    (bundle / "model.onnx").rename(bundle.parent / "model.onnx")
    (bundle / "model.onnx").symlink_to(bundle.parent / "model.onnx")


def link_folder(bundle: Path) -> None:
    (bundle / "golden").rename(bundle.parent / "golden")
    (bundle / "golden").symlink_to(bundle.parent / "golden")


def link_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").rename(bundle.parent / "manifest.json")
    (bundle / "manifest.json").symlink_to(bundle.parent / "manifest.json")


def add_pipe(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    os.mkfifo(bundle / "model.onnx")


def lengthen_file(bundle: Path) -> None:
    with (bundle / "model.onnx").open("ab") as stream:
        stream.write(b"x")


def cut_signature(bundle: Path) -> None:
    (bundle / "manifest.sig").write_bytes((bundle / "manifest.sig").read_bytes()[:-1])


def lengthen_signature(bundle: Path) -> None:
    (bundle / "manifest.sig").write_bytes((bundle / "manifest.sig").read_bytes() + b"x")


def huge_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (add_file, "golden/extra.png is a file the manifest does not list"),
        (add_folder, "golden/empty is a folder the manifest does not list"),
        (link_file, "model.onnx is a link"),
        (link_folder, "golden is a link"),
        (link_manifest, "manifest.json is a link"),
        (add_pipe, "model.onnx is not a plain file"),
        (lengthen_file, "bytes, found"),
        (cut_signature, "the signature of the bundle is cut short"),
        (lengthen_signature, "manifest.sig is too large"),
        (huge_manifest, "manifest.json is too large"),
        (lambda bundle: (bundle / "golden" / "001.png").unlink(), "the bundle lacks golden/001.png"),
        (lambda bundle: (bundle / "manifest.sig").unlink(), "the bundle is not signed"),
        (lambda bundle: (bundle / "manifest.json").unlink(), "the bundle has no manifest"),
        (shutil.rmtree, "no bundle at"),
    ],
)
def test_files_other_than_those_signed_are_refused(
    bundle: Path, trust: list[Path], change: Callable[[Path], object], said: str
) -> None:
    change(bundle)
    assert said in refused(bundle, trust)


def test_a_key_not_trusted_is_told_by_its_id(bundle: Path, tmp_path: Path, trust: list[Path]) -> None:
    ours = new_key(tmp_path / "other")
    (theirs,) = load_trusted(trust)
    said = refused(bundle, [public_path(tmp_path / "other")])
    assert f"expected one of {ours}, found {theirs}" in said


def test_an_attackers_signature_under_the_trusted_keys_id_is_refused(
    bundle: Path, tmp_path: Path, trust: list[Path]
) -> None:
    identity = (bundle / "manifest.sig").read_bytes()[64:]
    new_key(tmp_path / "other")
    sign_bundle(bundle, load_private(tmp_path / "other"))
    forged = (bundle / "manifest.sig").read_bytes()[:64] + identity
    (bundle / "manifest.sig").write_bytes(forged)
    assert CHANGED_MANIFEST in refused(bundle, trust)


def test_the_signature_is_bound_to_its_purpose(bundle: Path, key: Path, trust: list[Path]) -> None:
    bare = load_private(key).sign((bundle / "manifest.json").read_bytes())
    (bundle / "manifest.sig").write_bytes(bare + (bundle / "manifest.sig").read_bytes()[64:])
    assert CHANGED_MANIFEST in refused(bundle, trust)


def test_a_manifest_naming_another_signer_is_refused(bundle: Path, resign: Resign, trust: list[Path]) -> None:
    resign(bundle, lambda manifest: manifest["signer"].update(key_id="0" * 16))
    assert "names another signer" in refused(bundle, trust)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("../report.html", "leaves the bundle"),
        ("report/../../x", "leaves the bundle"),
        ("/etc/passwd", "is absolute"),
        ("report\\x", "holds a backslash"),
        ("C:report", "names a drive"),
        ("report/\x00", "holds control characters"),
        ("report/\u202egnp", "holds control characters"),
        ("", "is empty"),
        ("report//x", "not written plainly"),
        ("./report", "not written plainly"),
        ("report/", "not written plainly"),
        ("report/x.", "ends a name in a dot"),
        ("report/cafe\u0301", "composed form"),
        ("MODEL.onnx", "by letter case at most"),
        ("golden/000.png", "by letter case at most"),
        ("manifest.json", "the manifest's or the signature's own"),
        ("Manifest.SIG", "the manifest's or the signature's own"),
    ],
)
def test_a_path_that_could_mean_another_file_is_refused_though_signed(
    bundle: Path, resign: Resign, trust: list[Path], path: str, said: str
) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        (report,) = (entry for entry in manifest["files"] if entry["role"] == "report")
        report["path"] = path

    resign(bundle, edit)
    assert said in refused(bundle, trust)


def test_more_than_fits_into_memory_is_refused_before_reading(bundle: Path, resign: Resign, trust: list[Path]) -> None:
    resign(bundle, lambda manifest: manifest["files"][0].update(size=1 << 31))
    assert "the bundle is too large" in refused(bundle, trust)


BLOCKED = """
import sys
from pathlib import Path

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "click", "pydantic"):
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, Blocked())
from export.runtime.errors import FactoryError
from export.runtime.station import Station

for folder in sys.argv[2:]:
    try:
        print(Station.load(Path(folder), [Path(sys.argv[1])]).manifest.line)
    except FactoryError as error:
        print(error)
print("onnxruntime" in sys.modules)
"""


def test_nothing_of_a_changed_bundle_reaches_the_runtime(
    bundle: Path, trust: list[Path], python: Callable[..., CompletedProcess[str]]
) -> None:
    copies = []
    for index, path in enumerate((*FILES, "manifest.json", "manifest.sig")):
        copies.append(shutil.copytree(bundle, bundle.with_name(f"changed-{index}")))
        flip(copies[-1] / path, 7)
    done = python(BLOCKED, trust[0], *copies)
    *said, imported = done.stdout.splitlines()
    assert all("changed after signing" in line for line in said), done
    assert (len(said), imported) == (len(copies), "False")
    whole = python(BLOCKED, trust[0], bundle)
    assert whole.stdout.splitlines() == ["cells-3", "True"], whole


def test_a_path_the_system_refuses_is_told_without_a_traceback(trust: list[Path]) -> None:
    with pytest.raises(BundleRefused, match=r"cannot read|no bundle at"):
        verify_bundle(Path("x" * 300), load_trusted(trust))


def test_the_manifest_lists_exactly_the_files(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    assert tuple(entry["path"] for entry in manifest["files"]) == FILES
