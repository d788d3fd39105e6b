import base64
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.runtime.image import decode
from export.runtime.serve.metrics import Metrics
from export.runtime.serve.today import Today
from export.runtime.station import Station

Grey = Callable[[int], bytes]
BOUNDARY = "----x7Zq"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def form(*fields: tuple[str, bytes], end: bytes = b"--\r\n") -> bytes:
    body = b""
    for disposition, value in fields:
        body += f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + value + b"\r\n"
    return body + f"--{BOUNDARY}".encode() + end


def encoded(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def test_the_ways_to_send_a_picture_give_one_verdict(service: Any, grey: Grey, bundle: Path, trust: list[Path]) -> None:
    bright, ways = grey(200), {
        "image/png": grey(200),
        "application/octet-stream": grey(200),
        "application/json; charset=utf-8": json.dumps({"image": encoded(grey(200)), "part": "P 1"}).encode(),
        FORM: form(('form-data; name="part"', b"P 1"), ('form-data; name="image"; filename="a.png"', grey(200))),
    }  # fmt: skip
    direct = Station.load(bundle, trust).inspect(bright)
    assert direct.verdict == "reject"
    for kind, body in ways.items():
        path = "/inspect?part=P%201" if body == bright else "/inspect"
        status, _, answer = service.ask("POST", path, body, {"Content-Type": kind})
        found = json.loads(answer)
        assert (status, found["part"], found["verdict"], found["fault"]) == (200, "P 1", "reject", None), kind
        assert (found["label"], found["scores"]) == (direct.label, direct.scores)


def test_a_part_without_a_name_gets_one_of_its_own(service: Any, grey: Grey) -> None:
    parts = {service.inspect(grey(40))[1]["part"] for _ in range(3)}
    assert len(parts) == 3 and all(len(part) == 36 for part in parts)


def test_a_picture_that_cannot_be_read_gets_the_safe_verdict(service: Any) -> None:
    for picture in (b"", b"no picture", b"\x89PNG\r\n\x1a\n"):
        status, answer = service.inspect(picture)
        assert (status, answer["verdict"]) == (422, "review")
        assert answer["fault"]


def test_asking_again_gives_the_same_verdict_and_no_second_row(service: Any, grey: Grey) -> None:
    first = service.inspect(grey(200), Idempotency_Key="order-7")
    again = service.inspect(grey(200), Idempotency_Key="order-7")
    assert (again[0], again[1]["part"], again[1]["verdict"]) == (200, first[1]["part"], first[1]["verdict"])
    assert len(service.recorded) == 1
    assert len(json.loads(service.ask("GET", "/parts.json")[2])["parts"]) == 1


def test_a_key_given_to_another_picture_or_part_does_not_give_its_verdict_away(service: Any, grey: Grey) -> None:
    assert service.inspect(grey(40), Idempotency_Key="1")[1]["verdict"] == "pass"
    assert service.inspect(grey(200), Idempotency_Key="1")[1]["verdict"] == "reject"
    assert service.inspect(grey(40), "/inspect?part=B", Idempotency_Key="1")[1]["part"] == "B"
    assert len(service.recorded) == 3


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("application/json", b"\xff\xfe", "not sound JSON"),
        ("application/json", b"{", "not sound JSON"),
        ("application/json", b"[" * 100_000, "not sound JSON"),
        ("application/json", b'{"image": "", "image": ""}', "not sound JSON"),
        ("application/json", b"[1]", "not as expected"),
        ("application/json", b'{"part": "1"}', "not as expected"),
        ("application/json", b'{"image": "", "store": "/"}', "not as expected"),
        ("application/json", b'{"image": 7}', "no text"),
        ("application/json", b'{"image": "a"}', "holds no picture"),
        ("application/json", b'{"image": "a$bc"}', "holds no picture"),
        ("application/json", b'{"image": "YQ==", "part": "\\ud800"}', "holds no picture"),
        ("application/json", b'{"image": "YQ==", "part": ""}', "name cannot be used"),
        ("application/json", b'{"image": "YQ==", "part": "a\\nb"}', "name cannot be used"),
        ("application/json", b'{"image": "YQ==", "part": "' + b"x" * 201 + b'"}', "name cannot be used"),
        ("multipart/form-data", form(('form-data; name="image"', b"x")), "no sound boundary"),
        ('multipart/form-data; boundary=""', b"", "no sound boundary"),
        (FORM, b"", "cut or malformed"),
        (FORM, form(('form-data; name="image"', b"x"), end=b""), "cut or malformed"),
        (FORM, b"preamble\r\n" + form(('form-data; name="image"', b"x")), "cut or malformed"),
        (FORM, form(('form-data; name="image"', b"x")) + b"more", "cut or malformed"),
        (FORM, form(*[('form-data; name="image"', b"x")] * 9), "cut or malformed"),
        (FORM, form(*[('form-data; name="image"', b"x")] * 2), "not as expected"),
        (FORM, form(('form-data; name="file"', b"x")), "not as expected"),
        (FORM, form(('form-data; name="part"', b"x")), "no picture"),
        (FORM, form(("form-data", b"x")), "no name"),
        (FORM, form(('attachment; name="image"', b"x")), "no name"),
        (FORM, f"--{BOUNDARY}\r\nno field\r\n--{BOUNDARY}--".encode(), "field of the form is cut"),
        (FORM, f"--{BOUNDARY}\r\nno field\r\n\r\nx\r\n--{BOUNDARY}--".encode(), "header field is malformed"),
        (FORM, form(('form-data; name="image"', b"x"), ('form-data; name="part"', b"\xff")), "not UTF-8"),
    ],
)
def test_a_body_that_is_not_as_its_type_says_is_refused_in_words(
    shared: Any, kind: str, body: bytes, said: str
) -> None:
    status, fields, answer = shared.ask("POST", "/inspect", body, {"Content-Type": kind})
    found = json.loads(answer)
    assert (status, found["verdict"]) == (400, "reject")
    assert said in found["error"]["message"]
    assert set(found["error"]) == {"message", "expected", "found", "fix"}
    assert fields["connection"] == "keep-alive"  # its end is known, so the connection is of use
    assert shared.recorded == []


@pytest.mark.parametrize("query", ["part=%ff", "part", "x=1", "part=1&part=2", "part=", "part=%0a", "&"])
def test_a_part_named_badly_in_the_address_is_refused(shared: Any, grey: Grey, query: str) -> None:
    status, answer = shared.inspect(grey(40), f"/inspect?{query}")
    assert (status, answer["verdict"]) == (400, "reject")


def test_a_part_named_twice_and_a_bad_key_are_refused(service: Any, grey: Grey) -> None:
    body = json.dumps({"image": encoded(grey(40)), "part": "1"}).encode()
    assert service.ask("POST", "/inspect?part=2", body, {"Content-Type": "application/json"})[0] == 400
    assert service.inspect(grey(40), Idempotency_Key="two words")[0] == 400
    assert service.recorded == []


def test_a_type_that_holds_no_picture_is_told_which_do(service: Any, grey: Grey) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain", "application/xml", "nonsense", ""):
        status, fields, answer = service.ask("POST", "/inspect", grey(40), {"Content-Type": kind})
        assert status == 415, kind
        assert "image/*" in fields["accept-post"]
        assert json.loads(answer)["verdict"] == "reject"


def test_health_is_200_or_503_with_its_reason(service: Any, grey: Grey, hold_log: Any) -> None:
    assert service.ask("GET", "/healthz")[0] == 200
    release = hold_log()
    assert service.inspect(grey(40))[0] == 422
    status, _, body = service.ask("GET", "/healthz")
    (problem,) = json.loads(body)["problems"]
    assert status == 503 and "is locked" in problem
    release()
    # Whoever sends nothing to a station that is not healthy would else never send again.
    assert service.ask("GET", "/healthz")[0] == 200
    assert [entry.verdict for entry in service.recorded] == ["review"]


def test_health_is_told_while_every_inspection_waits(service: Any, grey: Grey) -> None:
    service.inspector.gate.clear()
    clients = [service.connect() for _ in range(4)]
    picture = grey(40)
    head = f"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(picture)}"
    for client in clients:
        client.sendall(head.encode() + b"\r\n\r\n" + picture)
    assert service.inspector.waiting.acquire(timeout=20)
    assert service.ask("GET", "/healthz")[0] == 200
    service.inspector.gate.set()
    for client in clients:
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
        client.close()


def test_the_last_parts_are_listed_newest_first_with_small_pictures(service: Any, grey: Grey) -> None:
    for number in range(26):
        service.inspect(grey(200 if number % 2 else 40), f"/inspect?part=P{number}")
    service.inspect(b"no picture", "/inspect?part=broken")
    state = json.loads(service.ask("GET", "/parts.json")[2])
    assert [part["part"] for part in state["parts"]] == ["broken"] + [f"P{number}" for number in range(25, 2, -1)]
    assert [part["verdict"] for part in state["parts"][:3]] == ["review", "reject", "pass"]
    assert state["today"] == {"pass": 13, "reject": 13, "review": 1}
    status, fields, picture = service.ask("GET", f"/parts/{state['parts'][1]['number']}/picture")
    assert (status, fields["content-type"]) == (200, "image/jpeg")
    assert abs(int(decode(picture).mean()) - 200) <= 2
    for gone in (1, state["parts"][0]["number"], 10**15, 10**14):
        assert service.ask("GET", f"/parts/{gone}/picture")[0] == 404


def test_metrics_are_what_prometheus_reads(service: Any, grey: Grey) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    for picture in (grey(40), grey(200), grey(200), b"none"):
        service.inspect(picture)
    service.ask("GET", "/nowhere")
    status, fields, body = service.ask("GET", "/metrics")
    assert (status, fields["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {family.name: family for family in parser.text_string_to_metric_families(body.decode())}
    values = {(s.name, *s.labels.values()): s.value for family in families.values() for s in family.samples}
    given = {verdict: values["station_verdicts_total", verdict] for verdict in ("pass", "reject", "review", "class")}
    assert given == {"pass": 1, "reject": 2, "review": 1, "class": 0}
    assert (values["station_faults_total",], values["station_http_responses_total", "404"]) == (1, 1)
    assert values["station_http_responses_total", "422"] == 1
    seconds = families["station_inspection_seconds"]
    assert seconds.type == "histogram"
    counts = [s.value for s in seconds.samples if s.name.endswith("_bucket")]
    assert counts == sorted(counts) and counts[-1] == values["station_inspection_seconds_count",] == 4
    assert 0 < values["station_inspection_seconds_sum",] < 10
    info = families["station_bundle_info"].samples[0].labels
    assert (info["line"], info["bundle"]) == ("cells-3", service.recorded[0].bundle)
    assert (values["station_drift_alarms",], values["station_lost_total",], values["station_healthy",]) == (0, 0, 1)
    assert values["process_resident_memory_bytes",] > 1e6 and values["process_open_fds",] > 2


KINDS = ["application/json", FORM, f'multipart/form-data; boundary="{BOUNDARY}"', "image/png"]


@given(kind=st.sampled_from(KINDS), body=st.binary(max_size=80), query=st.text(max_size=12), cut=st.integers(0, 200))
def test_no_body_whatever_makes_the_reader_fail(kind: str, body: bytes, query: str, cut: int) -> None:
    from export.runtime.serve.message import Head, Refused
    from export.runtime.serve.upload import Upload, read_upload

    whole = form(('form-data; name="image"', body), ('form-data; name="part"', body[:5]))
    for sent in (body, whole[:cut], whole[:cut] + body, whole):
        try:
            head = Head("POST", "/inspect", query, {"content-type": kind}, len(sent), keep_alive=True)
            found = read_upload(head, sent)
        except Refused:
            continue
        assert isinstance(found, Upload) and (found.part is None or found.part.isprintable())


@given(text=st.text())
def test_a_label_of_any_text_is_read_back_by_prometheus(text: str) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    status: dict[str, Any] = dict.fromkeys(("faults", "unrecorded", "lost", "healthy"), 0)
    status |= {"verdicts": {}, "drift": [], "bundle": text, "line": "", "since": ""}
    families = parser.text_string_to_metric_families(Metrics().text(status))
    (found,) = [family.samples[0].labels["bundle"] for family in families if family.name == "station_bundle_info"]
    assert found == text


def test_the_last_parts_are_there_again_after_a_restart(serve: Any, grey: Grey) -> None:
    with serve() as service:
        for part, picture in (("A", grey(40)), ("B", grey(200)), ("C", b"none")):
            service.inspect(picture, f"/inspect?part={part}")
    with serve() as service:
        state = json.loads(service.ask("GET", "/parts.json")[2])
    assert [(part["part"], part["verdict"]) for part in state["parts"]] == [
        ("C", "review"), ("B", "reject"), ("A", "pass"),
    ]  # fmt: skip
    assert state["today"] == {"pass": 1, "reject": 1, "review": 1}


def test_today_begins_at_midnight_of_this_place(service: Any, grey: Grey) -> None:
    service.inspect(grey(40))
    given = datetime.fromisoformat(service.recorded[0].time).astimezone(timezone(timedelta(hours=5)))
    time = given
    today = Today(service.inspector.history, lambda: time)
    assert [today.counts(), today.counts()] == [{"pass": 1}] * 2
    service.inspect(grey(200))
    assert today.counts() == {"pass": 1, "reject": 1}
    time = given + timedelta(days=1)
    assert today.counts() == {}
    time = given.replace(hour=23, minute=59)
    assert Today(service.inspector.history, lambda: time).counts() == {"pass": 1, "reject": 1}
