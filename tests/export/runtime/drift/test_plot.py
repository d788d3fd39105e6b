import xml.etree.ElementTree as ET

import numpy as np
import pytest

from export.runtime.drift.detector import Alarm, watched
from export.runtime.drift.plot import plot
from export.runtime.drift.reference import QUANTITIES

SVG = "{http://www.w3.org/2000/svg}"


def values(number: int, seed: int = 0) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    middles = {"score": 0.2, "brightness": 120.0, "sharpness": 9.0, "novelty": 0.5}
    return {name: (middle * rng.lognormal(0, 0.1, number)).tolist() for name, middle in middles.items()}


def drawn(text: str, kind: str, name: str) -> list[ET.Element]:
    return [element for element in ET.fromstring(text).iter(f"{SVG}{kind}") if element.get("class") == name]


def test_every_quantity_has_its_band_its_median_and_its_parts() -> None:
    text = plot(values(200), values(100, 1))
    assert len(drawn(text, "rect", "band")) == len(drawn(text, "line", "usual")) == len(QUANTITIES)
    for path in drawn(text, "path", "dots"):
        assert path.get("d", "").count("M") == 200
    assert len(drawn(text, "polyline", "run")) == len(QUANTITIES)
    assert next(element.text for element in drawn(text, "text", "name")) == "score"
    assert "href" not in text and "url(" not in text and "<script" not in text


def test_what_is_higher_lies_higher_on_the_page() -> None:
    known, own = values(100, 1), values(100)
    band = drawn(plot(own, known), "rect", "band")[1]
    own["brightness"] = [2 * value for value in own["brightness"]]
    text = plot(own, known)
    ys = [
        float(place.split(" ")[1])
        for place in drawn(text, "path", "dots")[1].get("d", "").replace("h0", "").split("M")[1:]
    ]
    top = float(drawn(text, "rect", "band")[1].get("y", "nan"))
    assert max(ys) < top, "twice as bright as ever before is above the band"
    assert float(band.get("height", "nan")) > 0


def test_alarms_are_marked_in_their_own_panel_and_told() -> None:
    own = values(600)
    own["sharpness"][400:] = [1.4 * value for value in own["sharpness"][400:]]
    known = values(300, 1)
    alarms = watched(own, known)
    assert [alarm.quantity for alarm in alarms] == ["sharpness"]
    text = plot(own, known, alarms)
    assert len(drawn(text, "line", "alarm")) == 1
    (told,) = drawn(text, "text", "told")
    assert told.text == f"higher since about {alarms[0].since:,}"
    assert drawn(plot(own, known, alarms, first=601), "line", "alarm") == [], "parts drawn and alarms count alike"


@pytest.mark.parametrize("number", [0, 1, 2, 49])
def test_few_parts_and_equal_values_can_be_drawn(number: int) -> None:
    same = {name: [0.5] * number for name in QUANTITIES}
    text = plot(same, {name: [0.5] for name in QUANTITIES})
    assert "nan" not in text and "inf" not in text
    assert all(path.get("d", "").count("M") == number for path in drawn(text, "path", "dots"))


def test_crowded_alarms_are_all_marked_and_the_last_one_told() -> None:
    alarms = [
        Alarm(quantity="score", direction="higher", part=part, since=part - 5, before=0.1, now=0.3)
        for part in (100, 104, 108)
    ]
    text = plot(values(200), values(100, 1), alarms)
    assert len(drawn(text, "line", "alarm")) == 3
    assert [told.text for told in drawn(text, "text", "told") if told.text] == ["higher since about 103"]
