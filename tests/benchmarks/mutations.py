"""Spoiled bundles by the thousand, each loaded as a station does: what is accepted, crashes, hangs or writes.

python -m tests.benchmarks mutations
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.mutants import KINDS

PROJECT = Path(__file__).parents[2]


def main(number: int) -> None:
    """Print a table by kind; the exit code is 1 unless every spoiled bundle was refused."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.judging", folder, "0", str(number)]
        done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    whole, *judged = [json.loads(line) for line in done.stdout.splitlines()]
    assert whole["outcome"] == "accepted" and len(judged) == number
    print("| kind | number | accepted | crashed | hung | outside | slowest ms |\n|---|---|---|---|---|---|---|")
    for kind in KINDS:
        print(_row(kind, [one for one in judged if one["kind"] == kind]))
    print(_row("all", judged))
    print(f"peak memory {judged[-1]['peak_mb']:.0f} MB")
    wrong = [one for one in judged if one["outcome"] != "refused" or one["outside"]]
    for one in wrong:
        print(one)
    sys.exit(1 if wrong else 0)


def _row(kind: str, judged: list[dict[str, Any]]) -> str:
    outcomes = Counter(one["outcome"] for one in judged)
    outside, slowest = sum(bool(one["outside"]) for one in judged), max(one["ms"] for one in judged)
    counts = " | ".join(str(outcomes[outcome]) for outcome in ("accepted", "crashed", "hung"))
    return f"| {kind} | {len(judged)} | {counts} | {outside} | {slowest:.1f} |"
