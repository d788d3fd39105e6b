"""The whole way on a tiny real line: from pictures to a bundle that a station loads."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from export.runtime.errors import EnvironmentLacks
from export.runtime.station import Station
from export.runtime.tensorrt_library import header_version
from factory.data.dataset import load
from factory.delivery import EXACT
from factory.profiles import load_line
from factory.spaces.plan import Input
from factory.spaces.residual import parse, plan
from factory.training.finish import load_plain
from factory.training.pictures import predict, standard
from tests.conftest import RTX, Finished
from tests.tiny import factory, make_images, make_line

CONTRACT = {
    "line", "device", "bundle", "report", "genome", "balanced_accuracy", "reference_balanced_accuracy", "auroc",
    "escape", "overkill", "latency_ms", "size_mb", "seconds", "accepted",
}  # fmt: skip
WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "factory", "click", "onnx"}:
            raise ImportError(f"{name} is not on a station")
sys.meta_path.insert(0, Blocked())
from export.runtime.cli import main
sys.exit(main(sys.argv[1:]))
"""


def _station(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_run_document_keeps_the_contract(finished: Finished) -> None:
    assert set(finished.document) >= CONTRACT
    assert finished.document["accepted"] is True
    assert finished.document["latency_ms"] <= 1.0
    assert finished.document["size_mb"] <= 0.5
    assert Path(finished.document["report"]).read_text(encoding="utf-8").startswith("<!")


def test_second_run_reuses_every_stage_and_says_the_same(finished: Finished) -> None:
    before = sorted(path.name for path in (finished.runs / "tiny").iterdir())
    result = finished.again("run", "--key", finished.key, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == finished.document
    stages = [line for line in result.stderr.splitlines() if re.match(r"\w+: (running|resuming|complete)", line)]
    assert stages
    assert all("complete, reused" in line for line in stages)
    assert sorted(path.name for path in (finished.runs / "tiny").iterdir()) == before


def test_station_decides_as_torch_on_every_test_image(finished: Finished) -> None:
    line, _ = load_line(str(finished.profile))
    stages = finished.runs / "tiny"
    data = load(line, next(stages.glob("data-*")))
    network = plan(parse(finished.document["genome"]), Input(24, 24, 1), 2)
    manifest = json.loads((finished.bundle / "manifest.json").read_text())
    collapsed = next(
        p for p in stages.glob("collapse-*") if manifest["chain"]["collapse"]["inputs"].startswith(p.name[9:])
    )
    logits = predict(load_plain(network, collapsed), data.test.images, standard(data.train.images), EXACT)
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    station = Station.load(finished.bundle, [Path(f"{finished.key}.pub")])
    verdicts = [station.inspect(finished.images / path) for path in data.test.paths]
    rejected = 1 - scores[:, 0] >= manifest["decision"]["threshold"]
    assert [v.label != "good" for v in verdicts] == rejected.tolist()
    assert np.allclose([v.scores["good"] for v in verdicts], scores[:, 0], atol=1e-5)


@pytest.mark.skipif(not RTX, reason="the extra rtx is not installed")
def test_the_engine_of_another_device_is_in_the_bundle_with_all_that_is_to_be_known_of_it(finished: Finished) -> None:
    manifest = json.loads((finished.bundle / "manifest.json").read_bytes())
    models = {entry["sha256"]: entry["path"] for entry in manifest["files"] if entry["role"] == "model"}
    engines = manifest["engines"]
    assert [engine["precision"] for engine in engines] in (["fp32"], ["fp32", "fp16"])
    for engine in engines:
        plan = (finished.bundle / engine.pop("path")).read_bytes()
        model = models[engine.pop("model_sha256")]
        assert (model == "model.onnx") == (engine["precision"] == finished.document["precision"])
        assert engine == {
            "runtime": "tensorrt-rtx",
            "precision": engine["precision"],
            "version": header_version(plan),
            "targets": [],
            "batch": [1, 1, 16],
            "hardware": "this-gpu",
            "version_compatible": False,
        }
    with pytest.raises(EnvironmentLacks):  # no GPU runs it here, and nothing else steps in
        Station.load(finished.bundle, [Path(f"{finished.key}.pub")], runtime="tensorrt-rtx")


def test_station_command_line_needs_neither_torch_nor_the_factory(finished: Finished) -> None:
    trust = ("--trust", f"{finished.key}.pub")
    verified = _station("verify", finished.bundle, *trust, "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["ok"] is True
    inspected = _station("inspect", finished.bundle, finished.images, *trust)
    assert inspected.returncode == 0, inspected.stderr
    lines = [json.loads(line) for line in inspected.stdout.splitlines()]
    assert len(lines) == 80
    assert {"pass", "reject"} <= {line["verdict"] for line in lines} <= {"pass", "reject", "review"}


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("check-data", {"images", "classes", "sizes", "unreadable", "duplicates", "leaks", "problems"}),
        ("space", {"genomes", "feasible_share", "satisfiable", "quantities"}),
        ("search", {"evaluated", "seconds", "front"}),
        ("train", {"genome", "weights", "shortlist"}),
        ("collapse", {"genome", "delivered", "finish", "modes"}),
        ("export", {"model", "threshold", "parity"}),
        ("bench", {"device", "latency_ms", "rows"}),
    ],
)
def test_every_listing_prints_a_table_and_one_json_document(finished: Finished, command: str, keys: set[str]) -> None:
    shown = finished.again(command)
    assert shown.exit_code == 0, shown.output
    assert "next: factory" in shown.stderr
    as_json = finished.again(command, "--json")
    assert set(json.loads(as_json.stdout)) >= keys


def test_search_front_keeps_the_budgets_and_is_no_longer_than_what_was_evaluated(finished: Finished) -> None:
    document = json.loads(finished.again("search", "--json").stdout)
    assert document["evaluated"] == 24
    latency = document["latency"]
    assert latency["settled"] == all(row["measured_ms"] is not None for row in document["front"])
    assert sum(r["measured"] for r in latency["rounds"]) > 0
    assert 1 <= len(document["front"]) <= 24
    for row in document["front"]:
        assert set(row) == {"genome", "score", "saturation", "latency_ms", "measured_ms", "size_mb", "params"}
        assert (row["measured_ms"] or row["latency_ms"]) <= 1.0
        assert row["size_mb"] <= 0.5


def test_missed_acceptance_is_exit_code_1_with_a_table_and_no_bundle(finished: Finished, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", shuffled=True)
    profile = make_line(tmp_path, images, epochs=1, acceptance="balanced_accuracy_min = 0.95")
    shutil.copytree(finished.runs / "devices", tmp_path / "runs" / "devices")
    result = factory("run", profile, "--runs", tmp_path / "runs", "--key", finished.key)
    assert result.exit_code == 1
    assert "balanced_accuracy_min" in result.stdout
    assert "NO" in result.stdout
    assert "the network is not accepted" in result.stderr
    assert not list((tmp_path / "runs" / "tiny").glob("pack-*"))
    assert list((tmp_path / "runs" / "tiny").glob("report-*/report.html"))


def _onnx_hashes(runs: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in runs.glob("tiny/export-*/model.onnx")}


def test_killed_anywhere_and_resumed_ends_with_the_same_model(finished: Finished, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished.runs / "devices", runs / "devices")  # measurements are an input
    command = [
        sys.executable,
        "-m",
        "factory.cli",
        "run",
        str(finished.profile),
        "--runs",
        str(runs),
        "--key",
        str(finished.key),
    ]
    rng, kills = np.random.default_rng(0), 0
    while kills < 4:
        process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(float(rng.uniform(3, 9)))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 1
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert _onnx_hashes(runs) == _onnx_hashes(finished.runs)
    assert not list((runs / "tiny" / "partial").iterdir())
