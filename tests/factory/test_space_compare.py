import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from factory.profiles import SpaceLimits
from tests.conftest import Finished
from tests.tiny import factory


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.search.compare.NETWORKS", 40)


def test_two_restrictions_are_compared_once_and_told_as_table_and_document(finished: Finished) -> None:
    shown = finished.again("space", "--compare", "all", "depths=1,2+kinds=mb,basic")
    assert shown.exit_code == 0, shown.output
    assert "A: all" in shown.stdout
    assert "B: kinds=basic,mb+depths=1,2" in shown.stdout
    figure = Path(re.findall(r"figure: (.*compare\.svg)", shown.stdout)[0])
    assert figure.read_text().startswith("<svg")
    assert "next: factory search" in shown.stderr
    again = finished.again("space", "--compare", "all", "kinds=basic,mb+depths=1,2", "--json")
    assert "compare: complete, reused" in again.stderr
    document = json.loads(again.stdout)
    assert next(iter(document)) == "line" and document["line"] == "tiny"
    assert [row["restriction"] for row in document["restrictions"]] == ["all", "kinds=basic,mb+depths=1,2"]
    for row in document["restrictions"]:
        assert set(row) >= {"restriction", "feasible_share", "n", "quantiles", "scores"}
        assert row["n"] == len(row["scores"]) == 40
        assert row["scores"] == sorted(row["scores"])
        assert row["quantiles"]["50"] == pytest.approx(np.median(row["scores"]))
        assert 0 < row["feasible_share"] <= 1
    assert set(document["ks"]) == {"statistic", "p"}
    assert document["better"] in {"A", "B", "neither"}
    table = tomllib.loads(document["toml"]).get("space", {})
    SpaceLimits.model_validate({key: tuple(values) for key, values in table.items()})
    named = {f"{key}={value}" for key in table for value in getattr(SpaceLimits(), key) if value not in table[key]}
    assert named <= {row["choice"] for row in document["suggestions"]}
    if table:
        assert document["toml"] in shown.stdout
    else:
        assert "nothing to narrow" in shown.stdout


def test_a_wrong_restriction_is_refused_before_any_work(finished: Finished, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    result = factory("space", finished.profile, "--runs", runs, "--compare", "all", "depths=9")
    assert result.exit_code == 2
    assert "expected depths of 1,2,3,4, found '9'" in result.stderr
    assert not runs.exists()


def test_the_space_of_the_profile_holds_for_the_comparison_and_the_search(finished: Finished, tmp_path: Path) -> None:
    profile = tmp_path / "tiny.toml"
    profile.write_text(finished.profile.read_text() + '[space]\nkinds = ["mb"]\nstem_strides = [1, 2]\n')
    refused = factory("space", profile, "--runs", finished.runs, "--compare", "all", "kinds=basic")
    assert refused.exit_code == 2
    assert "expected kinds of mb, found 'basic'" in refused.stderr
    searched = factory("search", profile, "--runs", finished.runs, "--json")
    assert searched.exit_code == 0, searched.output
    genomes = [row["genome"] for row in json.loads(searched.stdout)["front"]]
    assert genomes
    for genome in genomes:
        assert not re.search(r"basic|bottle|stem_w\d+_s4", genome)
    offered = json.loads(factory("space", profile, "--runs", finished.runs, "--json").stdout)
    whole = json.loads(finished.again("space", "--json").stdout)
    assert offered["genomes"] < whole["genomes"]
