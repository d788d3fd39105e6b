"""Two bundles of a tiny real line against each other: the one of a finished run, and others packed beside it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from export.build.onnx import export
from export.build.pack import golden_scores, pack
from export.runtime.decision import softmax
from export.runtime.image import load
from export.runtime.keys import load_trusted, new_key
from export.runtime.manifest import Draft
from export.runtime.station import Station
from export.runtime.trust import VerifiedBundle, verify_bundle
from factory.cli_compare import compare
from factory.cost.book import open_runner
from factory.data import dataset
from factory.delivery import infer
from factory.profiles import load_device, load_line
from factory.spaces.network import build
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan
from tests.conftest import Finished

SMALL = 16  # pixels a side: another input size than the line's 24


def compared(finished: Finished, a: Path, b: Path, *options: str | Path, trust: Path | None = None) -> Result:
    key = trust or Path(f"{finished.key}.pub")
    arguments = [finished.profile, a, b, "--trust", key, "--runs", finished.runs, *options]
    return CliRunner().invoke(compare, [str(argument) for argument in arguments])


def _repacked(finished: Finished, folder: Path, model: bytes, side: int, key: Path, **changes: Any) -> Path:
    """The finished bundle with another model, signed anew; its golden pictures scored by that model."""
    bundle: VerifiedBundle = verify_bundle(finished.bundle, load_trusted([Path(f"{finished.key}.pub")]))
    manifest = bundle.manifest
    known = {name: getattr(manifest, name) for name in Draft.__dataclass_fields__}
    size = replace(manifest.input, height=side, width=side)
    draft = replace(Draft(**known), input=size, engines=(), variants=(), **changes)
    golden = [entry.path for entry in manifest.files if entry.role == "golden-frame"]
    shape = plan(parse(finished.document["genome"]), Input(side, side, 1), 2)
    runner = open_runner(model, shape, load_device("cpu-x86"))
    scores = softmax(infer(runner, np.stack([load(finished.bundle / path, side, side, 1) for path in golden])))
    rule = {"labels": draft.labels, "good": draft.good, "threshold": draft.decision.threshold}
    files: dict[str, Any] = {path: ("golden-frame", bundle.contents[path]) for path in golden}
    files |= {
        manifest.model.path: ("model", model),
        manifest.reference: ("reference", bundle.contents[manifest.reference]),
        "golden/scores.json": ("golden-scores", golden_scores(golden, scores, **rule)),
    }
    return pack(folder, draft=draft, files=files, key=key, signer_name="test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def untrained(finished: Finished, folder: Path) -> Path:
    """A network that was never trained, on smaller pictures."""
    network = build(plan(parse(finished.document["genome"]), Input(SMALL, SMALL, 1), 2), None)
    model = export(network.eval(), (150.0,), (30.0,), (SMALL, SMALL, 1))
    return _repacked(finished, folder / "untrained", model, SMALL, finished.key, chain={})


def test_two_bundles_are_compared_on_the_test_pictures_by_the_stations_own_runtime(
    finished: Finished, untrained: Path
) -> None:
    result = compared(finished, finished.bundle, untrained, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    line, _ = load_line(str(finished.profile))
    test = dataset.load(line, next((finished.runs / "tiny").glob("data-*"))).test
    keys = [Path(f"{finished.key}.pub")]
    verdicts = [
        [Station.load(bundle, keys).inspect(finished.images / path).label != "good" for path in test.paths]
        for bundle in (finished.bundle, untrained)
    ]
    defects = test.labels == 1
    right = [np.array(own) == defects for own in verdicts]
    assert document["images"] == len(test.paths)
    assert document["only_a"] == int((right[0] & ~right[1]).sum())
    assert document["only_a"] > 0  # or nothing was compared
    assert document["only_b"] == int((right[1] & ~right[0]).sum())
    assert document["differ"] == document["only_a"] + document["only_b"] == len(document["apart"])
    assert document["figures"]["escape"]["b"]["value"] == pytest.approx(np.mean(~np.array(verdicts[1])[defects]))
    assert document["figures"]["balanced_accuracy"]["a"]["value"] == finished.document["balanced_accuracy"]
    assert [document[side]["picture"] for side in "ab"] == ["24 x 24, grey", "16 x 16, grey"]
    assert document["a"]["latency_ms"] == finished.document["latency_ms"]
    assert document["a"]["size_mb"] == finished.document["size_mb"]
    assert {row["path"] for row in document["apart"]} == {
        p for p, x, y in zip(test.paths, *verdicts, strict=True) if x != y
    }
    truths = [row["truth"] for row in document["apart"]]
    assert truths == sorted(truths, key=lambda label: label == "good")  # defects first
    assert len(document["notes"]) == 1
    assert document["notes"][0].startswith("B was not made from this line's images as they are now")


def test_the_command_prints_the_sentence_and_writes_the_page(finished: Finished, untrained: Path) -> None:
    document = json.loads(compared(finished, finished.bundle, untrained, "--json").stdout)
    shown = compared(finished, finished.bundle, untrained)
    assert shown.stdout.startswith(document["sentence"])
    rows = [line for line in shown.stdout.splitlines() if line.startswith(("balanced", "escape", "overkill", "size"))]
    assert len(rows) == 4
    assert "next: station inspect" in shown.stderr
    path = finished.runs / "tiny" / f"compare-{document['a']['bundle']}-{document['b']['bundle']}.html"
    assert document["page"] == str(path)
    assert f"page: {path}" in shown.stdout
    page = path.read_text(encoding="utf-8")
    assert page.count("<img") == min(24, document["differ"])
    assert all(document[side]["bundle"] in page for side in "ab")


def test_a_bundle_against_itself_decides_alike(finished: Finished) -> None:
    document = json.loads(compared(finished, finished.bundle, finished.bundle, "--json").stdout)
    assert (document["differ"], document["only_a"], document["only_b"], document["p"]) == (0, 0, 0, 1)
    assert document["apart"] == document["notes"] == []
    assert "they decide alike on all" in document["sentence"]


def test_nothing_is_opened_unless_both_bundles_are_trusted(finished: Finished, folder: Path) -> None:
    new_key(folder / "other.key")
    shown = compared(finished, finished.bundle, finished.bundle, trust=folder / "other.key.pub")
    assert shown.exit_code == 1
    assert "signed by a key not trusted here" in shown.stderr
    assert compared(finished, finished.bundle, folder / "nothing").exit_code == 1


def test_a_bundle_with_other_classes_is_refused(finished: Finished, folder: Path) -> None:
    model = (finished.bundle / "model.onnx").read_bytes()
    other = _repacked(finished, folder / "other", model, 24, finished.key, labels=("good", "dent"))
    shown = compared(finished, finished.bundle, other)
    assert shown.exit_code == 2
    assert "expected good, scratch; good: good, found dent, good; good: good" in shown.stderr
