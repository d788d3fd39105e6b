import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from export.runtime.errors import UsageError
from factory.engine import engine
from factory.evidence.correlate import Question, correlate, read
from factory.evidence.figure import correlation_figure
from factory.evidence.measures import params, protocol_for
from factory.evidence.pictures import load_pictures
from factory.score.protocol import ScoreProtocol
from factory.score.swap import swap_score
from factory.spaces.catalogue import SPACES

BENCH = next((p / "shared" / "bench" for p in Path(__file__).parents if (p / "shared" / "bench").is_dir()), None)
CELLS = SPACES["nasbench201"]
KEYS = {
    "space", "table", "metric", "where", "n", "invalid", "without_result", "best_trained", "protocol", "pictures",
    "regulariser", "median_saturation", "rows", "size_groups", "against_params",
}  # fmt: skip
ROW = {
    "score", "source", "n", "spearman", "low", "high", "kendall", "top_recall", "best_of_top10", "within_size",
    "groups", "seconds",
}  # fmt: skip

Made = Callable[[str, int], Path]


def quick() -> ScoreProtocol:
    return replace(protocol_for(CELLS, None), samples=8, repeats=1, image_size=16, depth=1)


def asked(path: Path, *scores: str, **more: Any) -> Question:
    settings: dict[str, Any] = {
        "space": CELLS, "table": path, "metric": "accuracy", "where": (), "sample": None, "seed": 3,
        "protocol": quick(), "images": None, "scores": scores or ("swap", "regularised", "nwot", "params"),
        "ablate": False,
    }  # fmt: skip
    return Question(**(settings | more))


def answer(question: Question, workers: int = 1) -> dict[str, Any]:
    with engine("processes", workers, None) as machine:
        return correlate(question, read(question), machine, lambda: None)


def without_seconds(document: dict[str, Any]) -> dict[str, Any]:
    return document | {"rows": [row | {"seconds": None} for row in document["rows"]]}


def test_the_numbers_are_those_of_independent_code(made_up: Made, few_sizes: None) -> None:
    path = made_up("nasbench201", 12)
    document = answer(asked(path))
    assert set(document) == KEYS
    assert all(set(row) == ROW and row["source"] == "ours" and row["seconds"] > 0 for row in document["rows"])
    lines = [line.rsplit(",", 1) for line in path.read_text().splitlines()[1:]]
    archs, truth = [arch for arch, _ in lines], [float(accuracy) for _, accuracy in lines]
    images = load_pictures(None, 8, 16, 3)
    size = replace(CELLS.proxy, depth=1)
    scores = [swap_score(lambda arch=arch: CELLS.network(arch, size), images, 3, quick()) for arch in archs]  # type: ignore[misc]
    swaps = [math.nan if score is None else score.swap for score in scores]
    known = np.isfinite(swaps)
    rows = {row["score"]: row for row in document["rows"]}
    assert rows["swap"]["n"] == known.sum() > 9
    wanted = scipy.stats.spearmanr(np.array(swaps)[known], np.array(truth)[known]).statistic
    assert rows["swap"]["spearman"] == pytest.approx(wanted)
    counts = [params(CELLS, arch, CELLS.full) for arch in archs]
    assert rows["params"]["spearman"] == pytest.approx(scipy.stats.spearmanr(counts, truth).statistic)
    assert rows["params"]["kendall"] == pytest.approx(scipy.stats.kendalltau(counts, truth).statistic)
    assert document["best_trained"] == max(truth)
    saturations = [score.saturation for score in scores if score is not None]
    assert document["median_saturation"] == pytest.approx(np.median(saturations))
    assert document["regulariser"]["mu"] > 0
    json.dumps(document, allow_nan=False)


def test_two_processes_and_one_agree(made_up: Made, few_sizes: None) -> None:
    question = asked(made_up("nasbench201", 5), "swap", "synflow", ablate=True)
    serial = answer(question)
    assert without_seconds(serial) == without_seconds(answer(question, 2))
    assert [row["image_size"] for row in serial["ablation"]] == [4, 8, 16, 32]
    assert serial["ablation_left_out"] == []


def test_columns_of_the_table_are_taken_and_invalid_networks_counted(
    write_table: Callable[..., Path], made_up: Made, few_sizes: None
) -> None:
    lines = [line.rsplit(",", 1)[0] for line in made_up("nasbench201", 6).read_text().splitlines()[1:]]
    cut = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    rows = [
        {"arch": arch, "accuracy": place, "nwot": -1e8 if place == 2 else -place}
        for place, arch in enumerate([*lines, cut])
    ]
    document = answer(asked(write_table(rows), "nwot", "params"))
    assert (document["n"], document["invalid"], document["best_trained"]) == (6, 1, 5)
    found = {row["score"]: row for row in document["rows"]}
    assert found["nwot"]["source"] == "table"
    assert found["nwot"]["seconds"] is None
    assert (found["nwot"]["n"], found["nwot"]["spearman"]) == (5, pytest.approx(-1))
    assert found["params"]["source"] == "ours"
    assert document["median_saturation"] is None


def test_a_sample_is_the_seeds(made_up: Made) -> None:
    path = made_up("nasbench201", 12)
    draws = [[network.arch for network in read(asked(path, sample=5, seed=seed)).networks] for seed in (1, 1, 2)]
    assert len(draws[0]) == 5
    assert draws[0] == draws[1] != draws[2]
    assert len(read(asked(path, sample=50)).networks) == 12


def test_too_few_networks_have_no_order(write_table: Callable[..., Path], few_sizes: None) -> None:
    arch = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"
    with pytest.raises(UsageError, match=r"too few networks.*3 or more.*found 1 of 1"):
        answer(asked(write_table([{"arch": arch, "accuracy": 1}]), "params"))


def test_the_figure_is_a_file_of_its_own(made_up: Made, few_sizes: None) -> None:
    document = answer(asked(made_up("nasbench201", 6)))
    document["rows"][-1] |= {"spearman": None, "low": None, "high": None}
    svg = correlation_figure(document)
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = " ".join(root.itertext())
    for row in document["rows"]:
        assert row["score"] in words
    assert "6 networks" in words
    assert "no value" in words
    assert svg == correlation_figure(document)


@pytest.mark.skipif(BENCH is None, reason="the benchmark tables are not beside the checkout")
def test_swap_ranks_cells_of_the_benchmark(few_sizes: None) -> None:
    assert BENCH is not None
    protocol = replace(protocol_for(CELLS, None), repeats=2)
    question = asked(BENCH / "nb201_dev.csv", "swap", "params", metric="cifar10_test", sample=30, protocol=protocol)
    rows = {row["score"]: row for row in answer(question)["rows"]}
    assert rows["swap"]["spearman"] > 0.5
    assert rows["params"]["source"] == "table"
