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


def test_novelty_is_the_distance_to_the_nearest_familiar_picture() -> None:
    rng = np.random.default_rng(1)
    mean, scale, centres = rng.normal(size=5), rng.uniform(0.1, 9, 5), rng.normal(size=(30, 5))
    familiar = Familiar(
        mean=tuple(mean.tolist()), scale=tuple(scale.tolist()), centres=tuple(map(tuple, centres.tolist())), limit=3.0
    )
    rows = mean + scale * rng.normal(size=(100, 5))
    found = [Novelty(familiar).of(statistics(row.tolist())) for row in rows]
    expected = [min(np.sqrt(np.mean(((row - mean) / scale - centre) ** 2)) for centre in centres) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert Novelty(familiar).of(statistics((mean + scale * centres[7]).tolist())) == pytest.approx(0, abs=1e-6)


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
        (lambda value: value["familiar"]["mean"].pop(), "52, 53 statistics"),
        (lambda value: value["familiar"]["scale"].pop(), "52, 53 statistics"),
        (lambda value: value["familiar"]["scale"].append(0), "least 0"),
        (lambda value: value["familiar"].update(centres=[]), "limit above 0"),
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
        read_reference(draft, {"r.json": canonical_bytes(value)}, 53)
