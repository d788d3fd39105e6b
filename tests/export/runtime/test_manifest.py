import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.runtime.errors import BundleRefused, EnvironmentLacks
from export.runtime.manifest import (
    Band,
    DecisionRule,
    FileEntry,
    Manifest,
    Signer,
    bundle_id,
    canonical_bytes,
    parse_manifest,
)

FREE = ("budget", "acceptance", "chain", "provenance")
DECISION = DecisionRule(rule="threshold", threshold=0.4, review=Band(low=0.3, high=0.5))
Place = tuple[str | int, ...]


@pytest.fixture(scope="module")
def whole(tiny: SimpleNamespace) -> Manifest:
    draft = tiny.draft(engines=(tiny.engine(),), decision=DECISION)
    roles = {
        "model.onnx": "model",
        "golden/scores.json": "golden-scores",
        "reference.json": "reference",
        "e.plan": "engine",
    }
    files = tuple(FileEntry(path=path, size=1, sha256="0" * 64, role=role) for path, role in roles.items())
    known = {name: getattr(draft, name) for name in draft.__dataclass_fields__}
    return Manifest(**known, files=files, signer=Signer(key_id="0" * 16, name="W1"))


@pytest.fixture(scope="module")
def value(whole: Manifest) -> dict[str, Any]:
    return dict(json.loads(canonical_bytes(whole)))


def test_what_is_written_is_read_again(whole: Manifest) -> None:
    written = canonical_bytes(whole)
    assert parse_manifest(written) == whole
    assert canonical_bytes(parse_manifest(written)) == written


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x)))
def test_canonical_bytes_do_not_depend_on_the_order_of_keys(value: Any) -> None:
    written = canonical_bytes(value)
    assert written.isascii()
    assert written.endswith(b"\n")
    assert json.loads(written) == value
    if isinstance(value, dict):
        assert canonical_bytes(dict(reversed(value.items()))) == written


def test_canonical_bytes_are_these() -> None:
    assert canonical_bytes({"b": [1, 0.5, None], "a": "é"}) == b'{"a":"\\u00e9","b":[1,0.5,null]}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_bytes(float("nan"))


def test_the_bundle_id_is_the_start_of_the_hash() -> None:
    assert bundle_id(b"abc") == "ba7816bf8f01cfea"


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    yield at
    if isinstance(value, dict) and at[-1:] not in [(name,) for name in FREE]:
        for key, item in value.items():
            yield from places(item, (*at, key))
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*at, index))


def at(value: Any, place: Place) -> Any:
    for step in place:
        value = value[step]
    return value


def refused(value: Any) -> str:
    with pytest.raises(BundleRefused) as error:
        parse_manifest(json.dumps(value).encode())
    return str(error.value)


def test_a_value_of_another_type_is_refused_everywhere(value: dict[str, Any]) -> None:
    for place in places(value):
        for other in (None, True, "x", 1.5, [], {}):
            unreviewed = place == ("decision", "review") and other is None
            if place and type(at(value, place)) is not type(other) and not unreviewed:
                changed = copy.deepcopy(value)
                at(changed, place[:-1])[place[-1]] = other
                refused(changed)


def test_a_key_missing_or_unknown_is_refused_by_name_everywhere(value: dict[str, Any]) -> None:
    objects = [
        place
        for place in places(value)
        if isinstance(at(value, place), dict) and place[-1:] not in [(f,) for f in FREE]
    ]
    assert len(objects) == 14
    for place in objects:
        for key in at(value, place):
            changed = copy.deepcopy(value)
            del at(changed, place)[key]
            assert f"lacks '{key}'" in refused(changed)
        changed = copy.deepcopy(value)
        at(changed, place)["surplus"] = 1
        assert "has unknown 'surplus'" in refused(changed)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"schema":1,"schema":1}', "the key 'schema' stands twice"),
        (b'{"a":{"b":1,"b":2}}', "the key 'b' stands twice"),
        (b'{"a":NaN}', "NaN is not a finite number"),
        (b'{"a":-Infinity}', "not a finite number"),
        (b'{"a":1e999}', "1e999 is not a finite number"),
        (b'{"a":"\xff"}', "utf-8"),
        (b'{"a":', "not sound JSON"),
        (b"[" * 100_000, "not sound JSON"),
        (b"1" * 10_000, "not sound JSON"),
        (b"[1]", "expected an object, found \\[1\\]"),
        (b"\xef\xbb\xbf{}", "not sound JSON"),
        (b"9" * 65, "a number of 65 characters"),
        (b"9" * 4_000_000, "a number of 4000000 characters"),
        (b"0." + b"1" * 1_000_000, "a number of 1000002 characters"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested deeper than 32"),
        (b"[" * 900 + b"]" * 900, "nested deeper than 32"),
        (b"{" + b",".join(b'"%d":1' % n for n in range(200_000)) + b',"7":1}', "the key '7' stands twice"),
    ],
)
def test_unsound_json_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(BundleRefused, match=said):
        parse_manifest(data)


def test_only_the_canonical_spelling_is_taken(value: dict[str, Any]) -> None:
    data = canonical_bytes(value)
    parse_manifest(data)
    for other in (data[:-1], data + b" ", data.replace(b":", b": ", 1), json.dumps(value).encode()):
        with pytest.raises(BundleRefused, match="not in canonical spelling"):
            parse_manifest(other)


def test_what_a_message_repeats_is_short(value: dict[str, Any]) -> None:
    for changed in (
        value | {"x" * 100_000: 1},
        value | {"labels": "x" * 100_000},
        {**value, **{f"k{n}": 1 for n in range(10_000)}},
    ):
        assert len(refused(changed)) < 1000


def test_another_schema_is_a_lack_of_this_station_and_not_of_the_bundle(value: dict[str, Any]) -> None:
    with pytest.raises(EnvironmentLacks, match="found schema 3") as error:
        parse_manifest(json.dumps(value | {"schema": 3, "new_in_3": 1}).encode())
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    ("place", "other", "said"),
    [
        (("labels",), ["good"], "labels must be two or more"),
        (("labels",), ["good", "dent", "dent"], "each once"),
        (("labels",), ["good", "dent", "sc\nratch"], "unprintable"),
        (("labels",), ["good", "dent", "\ud800"], "unprintable"),
        (("line",), "", "a name is empty"),
        (("good",), "fine", "good is none of the labels"),
        (("good",), None, "a threshold needs a good label"),
        (("decision", "rule"), "argmax", "only it"),
        (("decision", "threshold"), None, "rule and threshold"),
        (("decision", "threshold"), 0, "between 0 and 1"),
        (("decision", "threshold"), 1, "between 0 and 1"),
        (("golden", "tolerance"), 1, "tolerance"),
        (("input", "height"), 0, "below 1"),
        (("threads",), 0, "below 1"),
        (("input", "colour"), "rgb", "colour and channels"),
        (("input", "channels"), 2, "expected 1 or 3, found 2"),
        (("input", "channels"), True, "expected 1 or 3, found true"),
        (("input", "normalised_in_graph"), False, "expected true, found false"),
        (("device", "runtime"), "tflite", "onnxruntime-cpu"),
        (("created",), "2025-01-31 12:00", "UTC"),
        (("signer", "key_id"), "x", "16 hex digits"),
        (("files", 0, "sha256"), "A" * 64, "sound hash"),
        (("files", 0, "size"), -1, "sound hash"),
        (("files", 0, "role"), "report", "the models are not the files"),
        (("files", 1, "role"), "report", "the golden scores are not the files"),
        (("files", 2, "role"), "report", "the reference is not the file"),
        (("reference",), "other.json", "the reference is not the file"),
        (("decision", "review"), {"low": 0.5, "high": 0.6}, "a review band does not hold its threshold"),
        (("decision", "review"), {"low": 0.3, "high": 1.1}, "a review band does not hold its threshold"),
        (("files", 3, "role"), "report", "the engines are not the files"),
        (("engines", 0, "runtime"), "onnxruntime-cpu", "tensorrt-rtx"),
        (("engines", 0, "batch"), [1, 1], "a batch profile is not least, best and most"),
        (("engines", 0, "batch"), [0, 1, 1], "a batch profile"),
        (("engines", 0, "batch"), [2, 1, 4], "a batch profile"),
        (("device", "batch"), [1, 4, 2], "a batch profile"),
        (("device", "fallback"), "tensorrt", "onnxruntime-cpu"),
        (("engines", 0, "model_sha256"), "1" * 64, "an engine was built from another model"),
        (("engines", 0, "runtime"), "tensorrt-rtx", "claims what only TensorRT has"),
        (("engines", 0, "hardware"), "any", "this-gpu"),
        (("model", "path"), "other.onnx", "the models are not the files"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    value: dict[str, Any], place: Place, other: Any, said: str
) -> None:
    changed = copy.deepcopy(value)
    at(changed, place[:-1])[place[-1]] = other
    assert said in refused(changed)


def test_a_whole_number_is_taken_for_a_fraction(whole: Manifest) -> None:
    exact = replace(whole, golden=replace(whole.golden, tolerance=0))
    read = parse_manifest(canonical_bytes(exact))
    assert isinstance(read.golden.tolerance, float)
