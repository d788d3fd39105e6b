"""A real service on a real socket: the tiny bundle's station behind it, no part of the network imitated."""

import asyncio
import http.client
import json
import shutil
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.runtime.install.install import install
from export.runtime.live import recorder
from export.runtime.live.inspector import Answer, Inspector
from export.runtime.log import database
from export.runtime.log.history import History, log_file
from export.runtime.log.log import Entry
from export.runtime.serve.access import Access
from export.runtime.serve.connection import Limits
from export.runtime.serve.server import Server
from export.runtime.serve.service import Service
from export.runtime.settings import DriftSettings
from export.runtime.trust import load_trusted


class Gated(Inspector):
    """The inspector, with a gate before it that a test may shut for a while."""

    history: History
    gate: threading.Event
    waiting: threading.Semaphore

    def inspect(self, picture: bytes, part: str, source: str | None = None) -> Answer:
        self.waiting.release()
        assert self.gate.wait(30)
        return super().inspect(picture, part, source)


class Running:
    """A service that runs, and ways to talk to it."""

    def __init__(self, server: Server, inspector: Gated, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.inspector, self.port, self.loop = server, inspector, port, loop

    @property
    def recorded(self) -> list[Entry]:
        """What is on record, newest first."""
        return self.inspector.history.last(1000)

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
def running(inspector: Gated, limits: Limits, access: Access) -> Iterator[Running]:
    loop = asyncio.new_event_loop()
    server = Server(Service(inspector, inspector.history, access, DriftSettings()), limits)
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


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the store is that each test gets a copy of, once the first has made it."""
    return tmp_path_factory.mktemp("template") / "store"


@pytest.fixture
def store(template: Path, trust: list[Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A store with the tiny bundle installed, without measuring it."""
    if not template.exists():
        trusted, bundle = load_trusted(trust), request.getfixturevalue("bundle")
        install(bundle, trusted, template, allow_older=False, say=lambda _: None, test=lambda *_: {})
        (template / "trusted").mkdir()
        shutil.copy(trust[0], template / "trusted")
    return Path(shutil.copytree(template, tmp_path / "store"))


@contextmanager
def opened(store: Path, trust: list[Path]) -> Iterator[Gated]:
    trusted = load_trusted(trust)
    with Gated.open(store, lambda: trusted, lambda _: None) as inspector, History(store) as inspector.history:
        inspector.gate, inspector.waiting = threading.Event(), threading.Semaphore(0)
        inspector.gate.set()
        yield inspector


@pytest.fixture
def inspector(store: Path, trust: list[Path]) -> Iterator[Gated]:
    with opened(store, trust) as inspector:
        yield inspector


@pytest.fixture(scope="module")
def _kept() -> Iterator[tuple[ExitStack, list[Running]]]:
    with ExitStack() as stack:
        yield stack, []


@pytest.fixture
def shared(_kept: tuple[ExitStack, list[Running]], trust: list[Path], request: pytest.FixtureRequest) -> Running:
    """A service that all tests of a file have in common: for those that leave nothing on record."""
    stack, made = _kept
    if not made:
        inspector = stack.enter_context(opened(request.getfixturevalue("store"), trust))
        limits = Limits(stopping_s=0.02)
        made.append(stack.enter_context(running(inspector, limits, Access(None, loopback=True))))
    return made[0]


@pytest.fixture
def serve(inspector: Gated) -> Serve:
    def start(*, token: str | None = None, loopback: bool = True, **limits: Any) -> Any:
        return running(inspector, Limits(**({"stopping_s": 0.02} | limits)), Access(token, loopback))

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


@pytest.fixture
def hold_log(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Callable[[], object]]]:
    """Keep the service's log locked, as another program may that holds it open; returns what ends that."""
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    monkeypatch.setattr(recorder, "AGAIN_S", 0.0)
    with ExitStack() as held:

        def hold() -> Callable[[], object]:
            other = sqlite3.connect(log_file(store), isolation_level=None)
            held.callback(other.close)
            other.execute("BEGIN IMMEDIATE")
            return lambda: other.execute("ROLLBACK")

        yield hold
