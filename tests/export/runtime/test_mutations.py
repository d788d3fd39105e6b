"""Hundreds of spoiled bundles: none accepted, none crashes, none is let near a runtime or writes a byte."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.fuzz import SEEDS, TARGETS
from tests.mutants import KINDS

PROJECT = Path(__file__).parents[3]
OF_A_KIND = 25


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What came of a whole bundle, then of OF_A_KIND spoiled ones of each kind."""
    folder = tmp_path_factory.mktemp("mutants")
    command = [sys.executable, "-m", "tests.judging", str(folder), "0", str(OF_A_KIND * len(KINDS))]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_judge_sees_when_a_bundle_is_trusted(judged: list[dict[str, Any]]) -> None:
    assert judged[0]["outcome"] == "accepted"
    assert judged[0]["said"] in ("imported onnxruntime", "imported tensorrt")  # whichever is asked for first


def test_every_spoiled_bundle_is_refused_in_plain_words(judged: list[dict[str, Any]]) -> None:
    spoiled = judged[1:]
    assert {one["kind"] for one in spoiled} == set(KINDS)
    assert len(spoiled) == OF_A_KIND * len(KINDS)
    assert [one for one in spoiled if one["outcome"] != "refused"] == []
    assert [one for one in spoiled if len(one["said"]) > 1500] == []


def test_nothing_is_written_and_nothing_outside_is_opened(judged: list[dict[str, Any]]) -> None:
    assert [one for one in judged[1:] if one["outside"]] == []


def test_what_a_bundle_claims_takes_no_memory(judged: list[dict[str, Any]]) -> None:
    assert judged[-1]["peak_mb"] < 500


@pytest.mark.parametrize("target", ["manifest", "statement"])
def test_what_the_fuzzer_begins_with_is_taken(target: str) -> None:
    """From a seed that is refused it would never come to what lies behind."""
    seeds = list(SEEDS[target]())
    assert seeds
    for seed in seeds:
        TARGETS[target]()(seed)
