"""The audit of a tiny real line, and what follows from it."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from export.runtime.errors import GateError, UsageError
from factory import progress
from factory.cli_audit import audit
from factory.engine import Workers
from factory.evidence import auditing, choice, rows
from factory.page import Aside, run_report
from factory.pipeline import Run
from factory.profiles import load_line
from factory.training.robustness import load_robustness
from factory.workspace import Workspace, read_json, sha256
from tests.conftest import Finished
from tests.tiny import factory, make_line

SCORES = {"swap", "regularised", "params", "macs", "latency", "nwot", "calibrated", "refitted"}
NETS = ("--nets", "6", "--epochs", "1")


def audited(profile: Path, runs: Path, *options: str | Path) -> Result:
    return CliRunner().invoke(audit, [str(profile), "--runs", str(runs), *map(str, options)])


@pytest.fixture(scope="module", autouse=True)
def _few_draws() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (choice, rows):
            patch.setattr(module, "DRAWS", 100)
        yield


@pytest.fixture(scope="module")
def runs(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run, audited."""
    folder = tmp_path_factory.mktemp("audited") / "runs"
    shutil.copytree(finished.runs, folder)
    result = audited(finished.profile, folder, *NETS, "--engine", "serial")
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def document(runs: Path) -> dict[str, Any]:
    (path,) = runs.glob("tiny/audit-*/audit.json")
    found: dict[str, Any] = read_json(path)
    return found


class Refusing:
    """An engine that has nothing to do."""

    def map(self, task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        assert not items
        return iter(())


def test_the_table_lines_up_and_the_document_keeps_the_contract(finished: Finished, runs: Path) -> None:
    shown = audited(finished.profile, runs, *NETS)
    assert "next: factory search" in shown.stderr
    table = [line for line in shown.stdout.splitlines() if line.startswith("│")]
    assert len(table) == len(SCORES)
    assert len({len(row) for row in table}) == 1
    assert "on this line: its rank correlation with short training is" in shown.stdout
    assert (runs / "tiny").joinpath(re.findall(r"audit-\w+/audit\.svg", shown.stdout)[0]).is_file()
    document = json.loads(audited(finished.profile, runs, *NETS, "--json").stdout)
    assert set(document) >= {
        "line", "nets", "epochs", "scores", "saturation", "trusted", "sentence", "ranking", "shortlist",
        "settles_at_epoch", "curve", "extrapolation", "networks",
    }  # fmt: skip
    assert {row["score"] for row in document["scores"]} == SCORES
    assert {"spearman", "low", "high", "regret_top5"} <= set(document["scores"][0])
    assert (document["line"], document["nets"], document["epochs"]) == ("tiny", 6, 1)
    assert len({net["genome"] for net in document["networks"]}) == 6
    assert document["curve"] == [{"epoch": 1, "spearman": pytest.approx(1)}]


def test_networks_are_drawn_near_the_budgets_and_their_trainings_are_kept(
    finished: Finished, runs: Path, document: dict[str, Any]
) -> None:
    run = Run(*load_line(str(finished.profile)), runs)
    for net in document["networks"]:
        costs = run.pricing.admit(net["genome"])
        assert costs is not None
        assert costs.latency_ms >= 0.5 * run.line.budget.latency_ms
        assert net["features"]["params"] == costs.params
    genomes = [net["genome"] for net in document["networks"]]
    histories = run.trials(run.line.training.short_epochs).run(genomes, Refusing(), lambda _: None)  # the shortlist's
    assert [history[-1]["val_loss"] for history in histories] == [net["val_loss"] for net in document["networks"]]


def test_killed_and_resumed_on_two_processes_it_says_the_same(
    finished: Finished, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished.runs / "devices", tmp_path / "runs" / "devices")
    profile = make_line(tmp_path, finished.images, workers=2)

    @contextmanager
    def stopping(title: str, total: int) -> Iterator[Callable[[], None]]:
        left = 3 if title == "short trainings" else total

        def tick() -> None:
            nonlocal left
            left -= 1
            if not left and title == "short trainings":
                raise KeyboardInterrupt

        yield tick

    monkeypatch.setattr(progress, "ticker", stopping)
    stopped = audited(profile, tmp_path / "runs", *NETS, "--engine", "serial")
    assert stopped.exit_code == 130
    assert len(read_json(tmp_path / "runs" / "tiny" / "trials.json")) == 3
    monkeypatch.undo()
    resumed = audited(profile, tmp_path / "runs", *NETS, "--json")
    assert "audit: resuming" in resumed.stderr
    (path,) = runs.glob("tiny/audit-*/audit.json")
    (again,) = tmp_path.glob("runs/tiny/audit-*/audit.json")
    assert again.parent.name == path.parent.name  # whoever works
    assert again.read_bytes() == path.read_bytes()
    assert again.with_suffix(".svg").read_bytes() == path.with_suffix(".svg").read_bytes()


def test_the_search_goes_by_the_largest_audit_unless_the_profile_says_paper(
    finished: Finished, runs: Path, document: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    result = factory("search", finished.profile, "--runs", tmp_path / "runs", "--json")
    assert "search: ranked as the audit of 6 networks advises (" in result.stderr
    assert json.loads(result.stdout)["ranking"] == document["ranking"]
    larger = audited(finished.profile, tmp_path / "runs", "--nets", "7", "--epochs", "1", "--json")
    run = Run(*load_line(str(finished.profile)), tmp_path / "runs")
    assert run.audited == json.loads(larger.stdout)
    assert run.ranking.as_json() == run.audited["ranking"]
    line, root = load_line(str(finished.profile))
    paper = line.model_copy(update={"search": line.search.model_copy(update={"score": "paper"})})
    assert Run(paper, root, tmp_path / "runs").ranking.name == "paper"
    other = line.model_copy(update={"budget": line.budget.model_copy(update={"latency_ms": 0.9})})
    assert Run(other, root, tmp_path / "runs").audited is None


def test_the_report_says_what_the_audit_found_or_that_there_was_none(
    finished: Finished, document: dict[str, Any]
) -> None:
    run = Run(*load_line(str(finished.profile)), finished.runs, say=lambda _: None)
    results, studied = run.results, load_robustness(run.robustness_stage.path)
    notes = run_report(results, Aside(document, None, studied), None).notes
    assert any(note.startswith(document["sentence"]) for note in notes)
    advice = "No audit was made: factory audit LINE --nets 24 measures how far the score can be trusted here."
    assert advice in run_report(results, Aside(None, None, studied), None).notes
    assert "No audit was made" in Path(finished.document["report"]).read_text(encoding="utf-8")


def test_where_few_networks_are_near_the_budget_faster_ones_make_up(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, root = load_line(str(finished.profile))
    run = Run(line, root, finished.runs, Workers("serial", None), say=lambda _: None)
    monkeypatch.setattr(auditing, "TRIES", 60)
    monkeypatch.setattr(run.pricing, "limits", line.budget.model_copy(update={"latency_ms": 50.0}))
    said: list[str] = []
    drawn = auditing.draw_networks(run.pricing, 6, 0, said.append)
    assert len(dict(drawn)) == 6
    assert said == [
        "audit: 0 random networks keep the budgets and take half of latency_ms or more; 6 faster ones make up for 6"
    ]
    assert drawn == auditing.draw_networks(run.pricing, 6, 0, said.append)
    monkeypatch.setattr(run.pricing, "limits", line.budget.model_copy(update={"size_mb": 1e-4}))
    with pytest.raises(GateError, match="too few networks keep the budgets"):
        auditing.draw_networks(run.pricing, 6, 0, said.append)


def test_complete_stages_are_found_by_name_if_the_code_is_still_the_same(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "line", lambda _: None)
    for number in (1, 2):
        workspace.stage("toy", {"number": number}, lambda folder: (folder / "a").touch(), sha256)
    workspace.stage("toy", {"number": 3}, lambda folder: (folder / "a").touch(), auditing.audit)
    assert sorted(found["number"] for found in workspace.complete("toy", sha256)) == [1, 2]
    assert workspace.complete("other", sha256) == []
    next(tmp_path.glob("line/toy-*/stage.json")).write_text("{")
    with pytest.raises(UsageError, match="was changed after it was complete"):
        workspace.complete("toy", sha256)
