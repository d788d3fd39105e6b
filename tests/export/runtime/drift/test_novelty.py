import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from export.runtime.drift.novelty import Novelty
from export.runtime.drift.reference import Familiar, read_reference
from export.runtime.drift.statistics import Statistics
from export.runtime.errors import BundleRefused
from export.runtime.station import Station
from export.runtime.strictjson import canonical_bytes


def statistics(vector: list[float]) -> Statistics:
    return Statistics(np.array(vector), 0.0, 0.0)


def test_novelty_is_the_mahalanobis_distance_over_the_root_of_the_dimensions() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(500, 5)) @ rng.normal(size=(5, 5))
    mean, covariance = rows.mean(axis=0), np.cov(rows.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    whiten = (vectors / np.sqrt(values)).T
    familiar = Familiar(mean=tuple(mean.tolist()), whiten=tuple(map(tuple, whiten.tolist())), limit=3.0)
    found = np.array([Novelty(familiar).of(statistics(row.tolist())) for row in rows])
    inverse = np.linalg.inv(covariance)
    expected = [np.sqrt((row - mean) @ inverse @ (row - mean) / 5) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert np.mean(found**2) == pytest.approx(1)


def test_a_picture_unlike_the_training_pictures_goes_to_a_person(
    tiny: SimpleNamespace, make_bundle: Any, trust: list[Path]
) -> None:
    bundle = make_bundle(extra={"reference.json": ("reference", canonical_bytes(tiny.reference(limit=1.5)))})
    station = Station.load(bundle, trust)
    usual, noisy = np.full((8, 8, 1), 90, np.uint8), np.zeros((8, 8, 1), np.uint8)
    noisy[::2] = 255
    assert (station.inspect(usual).verdict, station.inspect(usual).reason) == ("pass", None)
    found = station.inspect(noisy)
    assert (found.verdict, found.reason) == ("review", "unlike the training pictures")
    assert found.novelty > 1.5 > station.inspect(usual).novelty


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda value: value["familiar"].update(limit=0), "limit 0"),
        (lambda value: value["familiar"]["mean"].pop(), "18, 19 statistics"),
        (lambda value: value["familiar"].update(whiten=[]), "limit above 0"),
        (lambda value: value["values"].update(score=[]), "no ascending values"),
        (lambda value: value["values"].update(novelty=[2, 1]), "no ascending values"),
        (lambda value: value.update(more=1), "unknown 'more'"),
    ],
)
def test_a_reference_that_cannot_be_meant_is_refused(tiny: SimpleNamespace, edit: Any, said: str) -> None:
    value = json.loads(canonical_bytes(tiny.reference()))
    edit(value)
    draft = replace(tiny.draft(), reference="r.json")
    with pytest.raises(BundleRefused, match=said):
        read_reference(draft, {"r.json": canonical_bytes(value)}, 19)
