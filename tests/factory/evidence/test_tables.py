import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.runtime.errors import UsageError
from factory.evidence.measures import space_named
from factory.evidence.tables import load_table
from factory.spaces.catalogue import SPACES

CELLS = ("64-41414-1_00_001", "64-41414-1_00_002", "64-41414-1_00_003")
MICRO = SPACES["transnas-micro"]

Write = Callable[..., Path]


def rows(**columns: Any) -> list[dict[str, Any]]:
    return [
        {"arch": cell, **{name: cells[index] for name, cells in columns.items()}} for index, cell in enumerate(CELLS)
    ]


def refused(path: Path, *words: str, metric: str = "acc", where: tuple[tuple[str, str], ...] = ()) -> None:
    with pytest.raises(UsageError) as caught:
        load_table(path, MICRO, metric, where, ("nwot", "zen", "params"))
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_results_and_scores_of_the_table_are_read(write_table: Write) -> None:
    path = write_table(rows(acc=(1.5, -2, 3), nwot=(4, "", -1e8), params_m=(0.1, 0.2, 0.3), zen_cifar10=(7, "nan", 9)))
    table = load_table(path, MICRO, "acc", (), ("nwot", "zen", "params", "snip"))
    assert table.without_result == 0
    assert [network.arch for network in table.networks] == list(CELLS)
    assert [network.truth for network in table.networks] == [1.5, -2, 3]
    assert [network.scores["params"] for network in table.networks] == [0.1, 0.2, 0.3]
    for name, first in (("nwot", 4.0), ("zen", 7.0)):
        values = [network.scores[name] for network in table.networks]
        assert values[0] == first
        assert values[1] != values[1]
    assert table.networks[2].scores["nwot"] != table.networks[2].scores["nwot"]
    assert "snip" not in table.networks[0].scores


def test_rows_without_a_result_are_counted(write_table: Write) -> None:
    table = load_table(write_table(rows(acc=("", 5, "-1e+08"))), MICRO, "acc", (), ())
    assert [network.arch for network in table.networks] == [CELLS[1]]
    assert table.without_result == 2


def test_where_selects_rows_and_several_of_one_network_are_refused(write_table: Write) -> None:
    both = [
        {"arch": cell, "task": task, "acc": accuracy}
        for accuracy, cell in enumerate(CELLS)
        for task in ("scene", "object")
    ]
    path = write_table(both)
    table = load_table(path, MICRO, "acc", (("task", "object"),), ())
    assert [network.truth for network in table.networks] == [0, 1, 2]
    refused(path, "several rows", "lines 2 and 3", "differ in task", "--where task=object")
    refused(path, "task=jigsaw", "found object, scene", where=(("task", "jigsaw"),))
    refused(path, "no column 'data'", "found arch, task, acc", where=(("data", "x"),))
    refused(write_table([*rows(acc=(1, 2, 3)), *rows(acc=(1, 2, 3))]), "differ in nothing", "Leave one out")


@pytest.mark.parametrize(
    ("space", "cells"),
    [
        ("residual", {"genome": "stem_w16_s2-basic_w24_d2_k3_e1_s1-bottle_w48_d1_k3_e4_s2"}),
        ("darts", dict.fromkeys(("normal", "reduce"), " ".join(["skip_connect:0", "sep_conv_3x3:1"] * 4))),
        (
            "nasbench101",
            {
                "adjacency_7x7": "0110000001100000001000000010000000100000010000000",
                "ops": "input " + "conv3x3-bn-relu " * 5 + "output",
            },
        ),
        ("nasbench201", {"arch": "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"}),
        ("transnas-micro", {"arch": CELLS[0]}),
        ("transnas-macro", {"arch": "64-1242-basic"}),
    ],
)
def test_networks_of_every_space_are_named_by_their_columns(
    space: str, cells: dict[str, str], write_table: Write, tmp_path: Path
) -> None:
    lines = tmp_path / "table.jsonl"
    lines.write_text(json.dumps(cells | {"accuracy": 0.75}) + "\n\n")
    for path in (write_table([cells | {"accuracy": 0.75}]), lines):
        [network] = load_table(path, space_named(space), "accuracy", (), ()).networks
        assert network.arch == SPACES[space].check(network.arch)
        assert network.truth == 0.75


def test_what_is_wrong_with_a_table_is_said(write_table: Write, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.csv", "no table", "found nothing")
    path = write_table(rows(acc=(1, 2, 3)))
    refused(path, "no column 'accuracy'", "found arch, acc", metric="accuracy")
    with pytest.raises(UsageError, match=r"no column 'genome'.*--space"):
        load_table(path, SPACES["residual"], "acc", (), ())
    with pytest.raises(UsageError, match=r"line 2, names no network of nasbench201.*--space"):
        load_table(path, SPACES["nasbench201"], "acc", (), ())
    refused(write_table(rows(acc=(1, "good", 3))), "line 3", "a number as acc", "'good'")
    refused(write_table(rows(acc=(1, 2, 3), nwot=(1, 2, "x"))), "line 4", "a number as nwot")
    for text, words in (
        ("", "has no rows"),
        ("arch,acc\n", "has no rows"),
        (f"arch,acc\n{CELLS[0]}\n", "line 2"),
        (f"arch,acc\n{CELLS[0]},1,2\n", "expected 2 cells"),
        (f'arch,acc\n"{CELLS[0]}"x,1\n', "line 2"),
    ):
        path.write_text(text)
        refused(path, words)
    path.write_bytes(b"arch,acc\n\xff\xfe,1\n")
    refused(path, "UTF-8")
    lines = tmp_path / "table.jsonl"
    for text, words in (('{"arch": 1', "line 1"), ("[1, 2]", "one JSON object"), ('{"acc": 1}', "no column 'arch'")):
        lines.write_text(text)
        refused(lines, words)
