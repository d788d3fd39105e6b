"""Callers that are slow, greedy, malformed or hostile: each is answered, and nothing of them is left behind."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.runtime.serve.message import Head, Refused, parse_head

Grey = Callable[[int], bytes]
Everything = Callable[[socket.socket], bytes]
HOST = b"Host: localhost\r\n"


def post(picture: bytes, *more: bytes, length: int | None = None) -> bytes:
    fields = [b"Host: localhost", b"Content-Type: image/png", b"Content-Length: %d" % (length or len(picture)), *more]
    return b"POST /inspect HTTP/1.1\r\n" + b"\r\n".join(fields) + b"\r\n\r\n" + picture


def statuses(answers: bytes) -> list[int]:
    """The statuses of several answers, each taken whole by its Content-Length."""
    found = []
    while answers:
        head, _, rest = answers.partition(b"\r\n\r\n")
        found.append(int(head.split()[1]))
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        answers = rest[int(length.split(b":")[1]) :]
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """Descriptors and threads are as many as before, once what is closing has closed."""

    def count() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    before = count()
    yield
    deadline = time.monotonic() + 10
    while count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert count() == before


@pytest.fixture
def alive(shared: Any, grey: Grey) -> Iterator[Any]:
    """The service, which must answer a healthy caller afterwards as before, with nothing left of the others."""
    service = shared
    service.inspector.gate.clear()
    with service.connect() as one, service.connect() as two:  # the threads start when they are needed, and stay
        for client in (one, two):
            client.sendall(post(grey(40)))
            assert service.inspector.waiting.acquire(timeout=20)
        assert service.ask("GET", "/healthz")[0] == 200
        service.inspector.gate.set()
    while service.server._open:
        time.sleep(0.01)
    with nothing_left():
        yield service
        assert service.inspect(grey(200))[1]["verdict"] == "reject"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
        (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b" folded: 1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Name : 1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Name: a\0b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Name: a\rb\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"No-Colon\r\n\r\n", 400),
        (b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /\xc3\xa4 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET http://localhost/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"CONNECT localhost:22 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n", 404),
        (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n", 404),
        (b"GET //inspect HTTP/1.1\r\n" + HOST + b"\r\n", 404),
        (b"GET /parts/../healthz HTTP/1.1\r\n" + HOST + b"\r\n", 404),
        (b"GET /healthz/ HTTP/1.1\r\n" + HOST + b"\r\n", 404),
        (b"GET /healthz%00 HTTP/1.1\r\n" + HOST + b"\r\n", 404),
        (b"GET /parts/1e3/picture HTTP/1.1\r\n" + HOST + b"\r\n", 404),
        (b"GET /parts/-1/picture HTTP/1.1\r\n" + HOST + b"\r\n", 404),
        (b"GET /page.html HTTP/1.1\r\n" + HOST + b"\r\n", 404),
        (b"GET /inspect HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"DELETE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"OPTIONS /inspect HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"GET /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc", 413),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: 1\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"POST /inspect HTTP/1.1\r\n" + HOST + b"Content-Type: image/png\r\n\r\n", 411),
        (post(b"x", b"Transfer-Encoding: chunked"), 400),
        (b"POST /inspect HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (post(b"x", b"Content-Length: 2"), 400),
        (b"POST /inspect HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400),
        (b"POST /inspect HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1\r\n\r\nx", 400),
        (b"POST /inspect HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\nx", 400),
        (b"POST /inspect HTTP/1.1\r\n" + HOST + b"Content-Length: \xb2\r\n\r\nx", 400),
        (b"POST /inspect HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999\r\nContent-Type: image/x\r\n\r\n", 413),
        (b"POST /inspect HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", 400),
        (post(b"x", b"Expect: miracles"), 417),
        (post(b"half of it", length=100), 400),
        (b"GET / HTTP/1.1\r\n" + HOST, 400),
    ],
)  # fmt: skip
def test_what_is_malformed_or_not_meant_is_refused_in_json(alive: Any, request_: bytes, status: int) -> None:
    answer = alive.raw(request_)
    assert statuses(answer) == [status]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert set(json.loads(body)["error"]) == {"message", "expected", "found", "fix"}
    assert b"Server" not in head and b"Traceback" not in body and b"python" not in head.lower()
    assert b"X-Content-Type-Options: nosniff" in head and b"default-src 'none'" in head
    assert b"Access-Control" not in head
    assert (status == 405) == (b"\r\nAllow: " in head)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(st.sampled_from([
            b"GET", b"POST", b" ", b"/", b"/inspect", b"HTTP/1.1", b"\r\n", b"\n", b"\r", b"\0", b":", b"Host",
            b"localhost", b"Content-Length", b"Transfer-Encoding", b"chunked", b"4", b",", b"\t", b"\xff",
        ]), max_size=24).map(b"".join),
    )
)  # fmt: skip
@settings(max_examples=300)
def test_no_head_whatever_makes_the_reader_fail(data: bytes) -> None:
    try:
        head = parse_head(data)
    except Refused:
        return
    assert isinstance(head, Head) and head.path.startswith("/") and head.length >= 0
    assert "transfer-encoding" not in head.fields


def test_pipelined_requests_are_answered_in_their_order(alive: Any, grey: Grey) -> None:
    health = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    nowhere = b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n"
    requests = [post(grey(40)), health, nowhere, b"\r\n", post(b"none"), post(grey(200), b"Connection: close"), health]
    assert statuses(alive.raw(b"".join(requests))) == [200, 200, 404, 422, 200]


def test_a_head_asked_for_alone_has_the_length_and_no_body(alive: Any) -> None:
    answer = alive.raw(b"HEAD / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\n")
    assert int(answer.split(b"Content-Length: ")[1].split(b"\r\n")[0]) > 1000


def test_http_1_0_is_answered_and_closed(alive: Any) -> None:
    answer = alive.raw(b"GET /healthz HTTP/1.0\r\n" + HOST + b"\r\n" + b"GET /healthz HTTP/1.0\r\n" + HOST + b"\r\n")
    assert statuses(answer) == [200]
    assert b"Connection: close" in answer


def test_a_large_body_is_awaited_only_once_it_is_accepted(alive: Any, grey: Grey, everything_of: Everything) -> None:
    picture = grey(40)
    with alive.connect() as client:
        client.sendall(post(b"", b"Expect: 100-continue", b"Connection: close", length=len(picture)))
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(picture)
        assert statuses(everything_of(client)) == [200]


def test_a_huge_body_is_refused_before_it_is_read_and_the_answer_is_not_lost(
    serve: Any, grey: Grey, everything_of: Everything
) -> None:
    with nothing_left(), serve(body_bytes=1_000_000) as service:
        with service.connect() as client:
            client.sendall(post(b"", length=1_000_001))
            assert statuses(everything_of(client)) == [413]
        with service.connect() as client:  # a client that sends first and reads then
            client.sendall(post(bytes(3_000_000)))
            assert statuses(everything_of(client)) == [413]
        assert service.inspect(bytes(1_000_000))[0] == 422
        assert service.inspect(grey(40))[1]["verdict"] == "pass"


def test_bodies_together_are_bounded(serve: Any, grey: Grey) -> None:
    with serve(body_bytes=1000, all_bodies_bytes=1500) as service, service.connect() as slow:
        slow.sendall(post(b"x", length=1000))
        while not service.server._shared._held:
            time.sleep(0.01)
        answer = service.raw(post(bytes(501)))
        assert statuses(answer) == [503] and b"Retry-After: 1" in answer
        assert service.inspect(grey(40))[1]["verdict"] == "pass"


@pytest.mark.parametrize("drips", [b"GET /healthz HTTP/1.1\r\nHost: loc", post(b"x" * 40, length=500)])
def test_a_request_that_drips_is_cut_off_in_time(
    serve: Any, grey: Grey, everything_of: Everything, drips: bytes
) -> None:
    with nothing_left(), serve(request_s=0.3) as service:
        began = time.monotonic()
        with service.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.settimeout(0.02)
            answer, rest = b"", iter(drips)
            while not answer and time.monotonic() < began + 10:
                client.sendall(bytes([next(rest, ord("x"))]))
                try:
                    answer = client.recv(4096)
                except TimeoutError:
                    continue
            client.settimeout(20)
            assert statuses(answer + everything_of(client)) == [408]
        assert service.inspect(grey(40))[1]["verdict"] == "pass"


def test_who_says_nothing_is_let_go(serve: Any, everything_of: Everything) -> None:
    with nothing_left(), serve(idle_s=0.1) as service, service.connect() as client:
        assert everything_of(client) == b""


def test_who_reads_nothing_is_let_go(serve: Any, grey: Grey) -> None:
    with nothing_left(), serve(request_s=0.3) as service, service.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        page = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
        with pytest.raises(OSError):  # noqa: PT011, PT012
            while True:
                client.sendall(page * 1000)
        assert service.inspect(grey(40))[1]["verdict"] == "pass"


def test_too_many_connections_are_told_to_come_again(serve: Any, grey: Grey, everything_of: Everything) -> None:
    with nothing_left(), serve(connections=20) as service:
        with ExitStack() as held:
            clients = [held.enter_context(service.connect()) for _ in range(200)]
            answers = [everything_of(client) for client in clients[20:40]]
            assert {tuple(statuses(answer)) for answer in answers} == {(503,)}
            assert all(b"Retry-After: 1" in answer for answer in answers)
            clients[0].sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
            assert clients[0].recv(100).startswith(b"HTTP/1.1 200 OK")
        deadline = time.monotonic() + 10
        while (answer := service.ask("POST", "/inspect", grey(40), {"Content-Type": "image/png"}))[0] == 503:
            assert time.monotonic() < deadline
        assert json.loads(answer[2])["verdict"] == "pass"


def test_many_callers_at_once_each_get_their_own_verdict(alive: Any, grey: Grey) -> None:
    wrong = []

    def call(number: int) -> None:
        for turn in range(5):
            shade, name = (40, 200)[(number + turn) % 2], f"{number}-{turn}"
            status, answer = alive.inspect(grey(shade), f"/inspect?part={name}")
            if (status, answer["part"], answer["verdict"]) != (200, name, {40: "pass", 200: "reject"}[shade]):
                wrong.append(answer)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(32)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []
    assert len(alive.recorded) >= 160


def test_a_caller_that_leaves_before_its_answer_harms_nobody(alive: Any, grey: Grey) -> None:
    alive.inspector.gate.clear()
    for _ in range(8):
        with alive.connect() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closed by a reset
            client.sendall(post(grey(40)))
    alive.inspector.gate.set()
    assert alive.inspect(grey(40))[1]["verdict"] == "pass"


def test_stopping_answers_what_has_begun_and_what_is_on_its_way(
    serve: Any, inspector: Any, grey: Grey, everything_of: Everything
) -> None:
    with nothing_left(), serve(stopping_s=0.25) as service, ExitStack() as held:
        begun, half, idle, late = (held.enter_context(service.connect()) for _ in range(4))
        for client in (idle, late):
            client.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
            assert client.recv(2000).startswith(b"HTTP/1.1 200 OK")
        inspector.gate.clear()
        whole = post(grey(200))
        begun.sendall(whole + whole)  # the second waits behind the first
        half.sendall(whole[:-10])
        assert inspector.waiting.acquire(timeout=20)
        stopping = threading.Thread(target=service.stop)
        stopping.start()
        late.sendall(whole)
        half.sendall(whole[-10:])
        time.sleep(0.05)
        with pytest.raises(OSError):  # noqa: PT011
            socket.create_connection(("127.0.0.1", service.port), timeout=5)
        inspector.gate.set()
        assert [statuses(everything_of(client)) for client in (begun, half, late, idle)] == [
            [200, 200],
            [200],
            [200],
            [],
        ]
        stopping.join(20)
        assert not stopping.is_alive()
