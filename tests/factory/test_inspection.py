"""What goes to a person: counted by hand, and the same at the station of a finished tiny line."""

import json
from pathlib import Path

import numpy as np
import pytest

from export.runtime.drift.reference import QUANTITIES, Reference
from export.runtime.manifest import parse_manifest
from export.runtime.station import NEAR, UNLIKE, Station
from export.runtime.strictjson import shape
from factory.data.dataset import load
from factory.inspection import outcomes
from factory.profiles import Classes, load_line
from tests.conftest import Finished


def flags(*rows: int) -> np.ndarray:
    return np.isin(np.arange(6), rows)


def test_a_person_rights_what_is_reviewed_and_nothing_else() -> None:
    classes = Classes(labels=("good", "dent", "scratch"), good="good")
    truth = np.array([0, 0, 1, 1, 2, 0])
    decided = ["good", "dent", "good", "good", "dent", "scratch"]  # rows 1 and 5 overkill, 2 and 3 escape
    found = outcomes(classes, truth, decided, near=flags(1, 2), unlike=flags(0, 2))
    assert {name: share["value"] for name, share in found["shares"].items()} == pytest.approx(
        {"review": 3 / 6, "near": 2 / 6, "unlike": 2 / 6}
    )
    values = {name: (row["alone"]["value"], row["with_person"]["value"]) for name, row in found["mistakes"].items()}
    assert values == {"escape": pytest.approx((2 / 3, 1 / 3)), "overkill": pytest.approx((2 / 3, 1 / 3))}


def test_on_a_line_that_sorts_the_wrong_class_is_the_mistake() -> None:
    classes = Classes(labels=("dent", "scratch"))
    truth, decided = np.array([0, 0, 1, 1, 1, 0]), ["dent", "scratch", "scratch", "dent", "scratch", "dent"]
    found = outcomes(classes, truth, decided, near=flags(), unlike=flags(3))
    (row,) = found["mistakes"].values()
    assert (row["alone"]["value"], row["with_person"]["value"]) == pytest.approx((2 / 6, 1 / 6))


def test_the_station_sends_to_a_person_what_the_run_counted(finished: Finished) -> None:
    (stage,) = (finished.runs / "tiny").glob("inspection-*")
    told = json.loads((stage / "inspection.json").read_text())
    line, _ = load_line(str(finished.profile))
    (folder,) = (finished.runs / "tiny").glob("data-*")
    test = load(line, folder).test
    station = Station.load(finished.bundle, [Path(f"{finished.key}.pub")])
    verdicts = station.inspect_batch(list(test.images))
    assert told["images"] == len(verdicts)
    assert sum(verdict.verdict == "review" for verdict in verdicts) == round(
        told["shares"]["review"]["value"] * len(verdicts)
    )
    assert sum(verdict.reason == UNLIKE for verdict in verdicts) == round(
        told["shares"]["unlike"]["value"] * len(verdicts)
    )
    assert {verdict.reason for verdict in verdicts} <= {None, NEAR, UNLIKE}


def test_the_bundle_carries_what_is_usual_and_a_band_for_every_model(finished: Finished) -> None:
    manifest = parse_manifest((finished.bundle / "manifest.json").read_bytes())
    reference = shape(Reference, json.loads((finished.bundle / manifest.reference).read_text()), "reference")
    assert set(reference.values.by_name()) == set(QUANTITIES)
    assert len({len(values) for values in reference.values.by_name().values()}) == 1
    for decision in (manifest.decision, *(variant.decision for variant in manifest.variants)):
        assert decision.threshold is not None and decision.review is not None
        assert decision.review.low <= decision.threshold <= decision.review.high
    band, near = manifest.decision.review, 1e-5  # the reference's values are rounded
    assert band is not None
    inside = [band.low - near <= score <= band.high + near for score in reference.values.score]
    assert sum(inside) >= 0.02 * len(inside)
