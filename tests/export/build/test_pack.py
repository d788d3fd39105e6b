import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.build.pack import golden_scores, pack
from export.runtime.errors import BundleRefused, UsageError
from export.runtime.keys import load_trusted, new_key, public_path
from export.runtime.manifest import DecisionRule, DeviceContract, Draft, Golden, Input, Model, Output
from export.runtime.trust import verify_bundle

LABELS = ("good", "dent")
DRAFT = Draft(
    line="cells-3",
    created="2025-01-31T12:00:00Z",
    device=DeviceContract(name="bench", runtime="onnxruntime-cpu", precision="fp32"),
    labels=LABELS,
    good="good",
    decision=DecisionRule(rule="threshold", threshold=0.4),
    input=Input(name="x", height=8, width=8, channels=1, colour="grey", resize="any"),
    output=Output(name="y"),
    model=Model(path="model.onnx", precision="fp32", opset=18),
    engines=(),
    golden=Golden(path="golden/scores.json", tolerance=1e-4),
    reference="reference.json",
    threads=1,
    budget={},
    acceptance={},
    chain={},
    provenance={},
)


def model() -> onnx.ModelProto:
    """The smallest model with a weight: y = x + w."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    weight = numpy_helper.from_array(np.ones(1, np.float32), "w")
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return helper.make_model(helper.make_graph([node], "g", values[:1], values[1:], [weight]))


def scores(*paths: str) -> bytes:
    rows = np.array([[0.7, 0.3], [0.5, 0.5]])[: len(paths)]
    return golden_scores(paths, rows, labels=LABELS, good="good", threshold=0.4)


def files(**changes: Any) -> dict[str, Any]:
    known = {
        "model.onnx": ("model", model().SerializeToString()),
        "golden/0.png": ("golden-frame", b"picture 0"),
        "golden/1.png": ("golden-frame", b"picture 1"),
        "golden/scores.json": ("golden-scores", scores("golden/0.png", "golden/1.png")),
        "reference.json": ("reference", b"{}"),
    }
    return known | changes


@pytest.fixture
def key(tmp_path: Path) -> Path:
    new_key(tmp_path / "keys" / "w1")
    return tmp_path / "keys" / "w1"


def test_a_bundle_is_packed_whole_and_signed(tmp_path: Path, key: Path) -> None:
    report = tmp_path / "report.html"
    report.write_bytes(b"<p>fine</p>")
    packed = files() | {"docs/report.html": ("report", report)}
    folder = pack(tmp_path / "out" / "bundle", draft=DRAFT, files=packed, key=key, signer_name="W1")
    verified = verify_bundle(folder, load_trusted([public_path(key)]))
    assert verified.contents["docs/report.html"] == report.read_bytes()
    assert {entry.path: entry.role for entry in verified.manifest.files} == {
        path: role for path, (role, _) in packed.items()
    }
    assert verified.manifest.signer.name == "W1"
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


def test_the_same_content_is_the_same_bundle(tmp_path: Path, key: Path) -> None:
    one, two = (
        pack(tmp_path / name, draft=DRAFT, files=packed, key=key, signer_name="W1")
        for name, packed in (("one", files()), ("two", dict(reversed(files().items()))))
    )
    for name in ("manifest.json", "manifest.sig"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_nothing_is_written_over(kind: str, tmp_path: Path, key: Path) -> None:
    destination = tmp_path / "bundle"
    if kind == "folder":
        destination.mkdir()
    elif kind == "file":
        destination.touch()
    else:
        destination.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="exists already"):
        pack(destination, draft=DRAFT, files=files(), key=key, signer_name="W1")


def external() -> bytes:
    outside = model()
    tensor = outside.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return outside.SerializeToString()


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"../escape": ("report", b"x")}, BundleRefused, "leaves the bundle"),
        ({"manifest.json": ("report", b"x")}, BundleRefused, "the manifest's or the signature's own"),
        (
            {"second.onnx": ("model", model().SerializeToString())},
            BundleRefused,
            "not the files of that role",
        ),
        ({"golden/2.png": ("golden-frame", b"x")}, BundleRefused, "do not belong to the golden pictures"),
        ({"golden/scores.json": ("golden-scores", b'{"frames":[]}')}, BundleRefused, "found none"),
        (
            {
                "golden/scores.json": (
                    "golden-scores",
                    scores("golden/0.png", "golden/1.png").replace(b"dent", b"dint"),
                )
            },
            BundleRefused,
            "do not belong to the labels",
        ),
        ({"golden/scores.json": ("golden-scores", b"{}")}, BundleRefused, "lacks 'frames'"),
        ({"model.onnx": ("model", external())}, BundleRefused, "keeps weights outside its file"),
        ({"report.html": ("report", Path("missing.html"))}, UsageError, "cannot pack missing.html"),
    ],
)
def test_a_bundle_that_would_not_verify_is_not_left_behind(
    changes: dict[str, Any], kind: type[Exception], said: str, tmp_path: Path, key: Path
) -> None:
    with pytest.raises(kind, match=said):
        pack(tmp_path / "out" / "bundle", draft=DRAFT, files=files(**changes), key=key, signer_name="W1")
    assert sorted(path.name for path in tmp_path.rglob("*")) in (
        ["keys", "w1", "w1.pub"],
        ["keys", "out", "w1", "w1.pub"],
    )


def test_a_draft_that_contradicts_itself_is_not_packed(tmp_path: Path, key: Path) -> None:
    with pytest.raises(BundleRefused, match="good is none of the labels"):
        pack(tmp_path / "b", draft=replace(DRAFT, good="fine"), files=files(), key=key, signer_name="W1")


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, key: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        pack(tmp_path / "file" / "bundle", draft=DRAFT, files=files(), key=key, signer_name="W1")


def test_golden_scores_hold_the_scores_and_what_was_decided() -> None:
    assert json.loads(scores("a.png", "b.png")) == {
        "frames": [
            {"label": "good", "path": "a.png", "scores": {"dent": 0.3, "good": 0.7}, "verdict": "pass"},
            {"label": "dent", "path": "b.png", "scores": {"dent": 0.5, "good": 0.5}, "verdict": "reject"},
        ]
    }
