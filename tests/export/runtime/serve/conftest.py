"""A real service on a real socket: the tiny bundle's station behind it, no part of the network imitated."""

import asyncio
import http.client
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.runtime.errors import FactoryError
from export.runtime.serve.access import Access
from export.runtime.serve.connection import Limits
from export.runtime.serve.server import Server
from export.runtime.serve.service import Service
from export.runtime.station import Station


@dataclass(frozen=True)
class Answer:
    part: str
    verdict: str
    label: str | None
    scores: dict[str, float] | None
    threshold: float | None
    ms: float
    bundle: str
    reason: str | None
    fault: str | None


class Inspector:
    """A station, the verdicts it gave by their source, and a gate that a test may shut for a while."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.given: dict[str | None, Answer] = {}
        self.today: Counter[str] = Counter()
        self.reason: str | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Semaphore(0)

    def inspect(self, picture: bytes, part: str, source: str | None = None) -> Answer:
        self.waiting.release()
        assert self.gate.wait(30)
        if source in self.given:
            return self.given[source]
        try:
            found = self.station.inspect(picture)
            answer = Answer(part, found.verdict, found.label, found.scores, found.threshold, found.ms, "b1", None, None)
        except FactoryError as error:
            answer = Answer(part, "review", None, None, None, 0.5, "b1", None, str(error))
        self.given[source] = answer
        self.today[answer.verdict] += 1
        return answer

    def status(self) -> dict[str, object]:
        return {
            "healthy": self.reason is None, "reason": self.reason, "bundle": 'b1"\\\n', "line": "cells-3",
            "since": "2026-01-31T12:00:00Z", "today": dict(self.today), "drift_alarms": 2, "log_failures": 1,
        }  # fmt: skip


class Running:
    """A service that runs, and ways to talk to it."""

    def __init__(self, server: Server, inspector: Inspector, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.inspector, self.port, self.loop = server, inspector, port, loop

    def ask(
        self, method: str, path: str, body: bytes | None = None, fields: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask by the standard library's client."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            client.request(method, path, body, fields or {})
            answer = client.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            client.close()

    def inspect(self, picture: bytes, path: str = "/inspect", **fields: str) -> tuple[int, dict[str, Any]]:
        sent = {"Content-Type": "image/png"} | {name.replace("_", "-"): value for name, value in fields.items()}
        status, _, body = self.ask("POST", path, picture, sent)
        return status, json.loads(body)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def raw(self, data: bytes) -> bytes:
        """Send bytes and the end of them, and return all that comes back."""
        with self.connect() as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return everything(client)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(), self.loop).result(30)


def everything(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65_536), b""))


Serve = Callable[..., Any]


@contextmanager
def running(inspector: Inspector, limits: Limits, access: Access) -> Iterator[Running]:
    loop = asyncio.new_event_loop()
    server = Server(Service(inspector, access), limits)
    port = loop.run_until_complete(server.start("127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    service = Running(server, inspector, port, loop)
    try:
        yield service
    finally:
        inspector.gate.set()
        service.stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


@pytest.fixture(scope="session")
def everything_of() -> Callable[[socket.socket], bytes]:
    return everything


@pytest.fixture
def inspector(bundle: Path, trust: list[Path]) -> Inspector:
    return Inspector(Station.load(bundle, trust))


@pytest.fixture
def serve(inspector: Inspector) -> Serve:
    def start(*, token: str | None = None, loopback: bool = True, **limits: Any) -> Any:
        return running(inspector, Limits(**limits), Access(token, loopback))

    return start


@pytest.fixture
def service(serve: Serve) -> Iterator[Running]:
    with serve() as started:
        yield started


@pytest.fixture(scope="session")
def grey(tiny: SimpleNamespace) -> Callable[[int], bytes]:
    """A PNG of one grey: 40 passes, 200 is a defect."""
    picture: Callable[[int], bytes] = tiny.picture
    return picture
