"""`factory score` and `factory correlate`: what they print, write and refuse."""

import json
from pathlib import Path

import pytest
from click import Command
from click.testing import CliRunner, Result

from factory.cli_scores import correlate, score
from factory.evidence import measures

MICRO = "64-41414-3_12_031"
TABLE = ("64-41414-3_12_031", "64-41414-1_00_002", "64-41414-2_11_003", "64-41414-3_33_333", "64-41414-1_11_111")


@pytest.fixture(autouse=True)
def _few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "SAMPLED", 5)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "micro.csv"
    lines = [f"{arch},{task},{place}" for place, arch in enumerate(TABLE) for task in ("scene", "object")]
    path.write_text("\n".join(["arch,task,val", *lines]))
    return path


def call(which: Command, *arguments: str | Path) -> Result:
    return CliRunner().invoke(which, [str(argument) for argument in arguments])


def refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    for word in ("error: ", *words):
        assert word in result.stderr, result.stderr


def micro(*arguments: str | Path) -> Result:
    return call(score, "--space", "transnas-micro", "--arch", MICRO, *arguments)


def test_score_keeps_its_contract() -> None:
    result = micro("--mu", "2", "--sigma", "3", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert {"swap", "regularised", "per_init", "saturation", "positions", "params", "seconds"} <= set(document)
    assert document["swap"] == sum(document["per_init"]) / len(document["per_init"])
    assert document["params"] < document["params_full"]
    assert document["regulariser"] == {"mu": 2, "sigma": 3}
    assert document["protocol"]["name"] == "factory"
    assert len(document["protocol"]["digest"]) == 64
    assert "next: factory correlate --space transnas-micro" in result.stderr
    again = json.loads(micro("--mu", "2", "--sigma", "3", "--json").stdout)
    assert again | {"seconds": 0} == document | {"seconds": 0}


def test_score_prints_a_table_and_takes_the_other_protocol() -> None:
    result = micro("--protocol", "paper", "--seed", "1")
    assert result.exit_code == 0, result.output
    for word in ("SWAP-Score", "mean of 32", "saturation", "regularised", "protocol paper", "2^16"):
        assert word in result.stdout


def test_score_refuses_what_it_cannot_score(tmp_path: Path) -> None:
    refused(call(score, "--space", "transnas-micro", "--arch", "64-41414-0_00_000"), 1, "degenerate", "no path")
    refused(call(score, "--space", "nasbench", "--arch", "x"), 2, "'nasbench'", "nasbench201")
    refused(call(score, "--space", "transnas-micro", "--arch", "64-41414-9_00_000"), 2, "'9'", "choose one of")
    refused(micro("--mu", "2"), 2, "go together")
    refused(micro("--images", tmp_path / "nowhere"), 2, "nowhere", "expected")


def test_correlate_keeps_its_contract_and_writes_its_files(table: Path, tmp_path: Path) -> None:
    arguments = ("--space", "transnas-micro", "--table", table, "--metric", "val", "--where", "task=scene",
                 "--scores", "swap,params,nwot", "--engine", "serial")  # fmt: skip
    result = call(correlate, *arguments, "--runs", tmp_path / "runs", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert {"space", "table", "metric", "n", "invalid", "rows", "best_trained", "protocol"} <= set(document)
    assert {row["score"] for row in document["rows"]} == {"swap", "params", "nwot"}
    assert (document["n"], document["invalid"], document["best_trained"]) == (4, 1, 4)
    folder = tmp_path / "runs" / "correlate-transnas-micro-val-scene"
    assert json.loads((folder / "correlate.json").read_text()) == document
    assert (folder / "correlate.svg").read_text().startswith("<svg ")
    assert "next: " in result.stderr
    shown = call(correlate, *arguments, "--ablation", "--out", tmp_path / "out")
    assert shown.exit_code == 0, shown.output
    for word in (
        "rank correlation with val, task scene",
        "ranks best",
        "32 pixels",
        "left out, too small",
        "best trained: 4",
    ):
        assert word in shown.stdout
    assert (tmp_path / "out" / "correlate.svg").exists()


def test_correlate_refuses_in_plain_words(table: Path, tmp_path: Path) -> None:
    def ask(*arguments: str | Path, space: str = "transnas-micro", path: Path = table, metric: str = "val") -> Result:
        settings = ("--space", space, "--table", path, "--metric", metric, "--runs", tmp_path / "runs")
        return call(correlate, *settings, *arguments)

    refused(ask(), 2, "several rows", "--where task=")
    refused(ask("--where", "task"), 2, "--where", "COLUMN=VALUE")
    refused(ask("--where", "task=jigsaw"), 2, "object, scene")
    refused(ask("--scores", "swap,accuracy"), 2, "'accuracy'", "grad_norm")
    refused(ask(metric="accuracy"), 2, "no column 'accuracy'", "arch, task, val")
    refused(ask(space="darts"), 2, "no column 'normal'", "--space")
    refused(ask(space="micro"), 2, "'micro'", "transnas-micro")
    refused(ask(path=tmp_path / "no.csv"), 2, "no table")
    refused(ask("--where", "task=scene", "--images", tmp_path), 2, "too few pictures")
    assert not (tmp_path / "runs").exists()
