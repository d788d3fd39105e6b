"""One connection: requests read whole, within a time and a size, answered in their order; then closed without loss."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from export.runtime.serve.message import HEAD_BYTES, Head, Refused, Response, encode, parse_head

CHUNK = 262_144
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_RETRY = (("Retry-After", "1"),)


class Answers(Protocol):
    """What is served: a head is checked before its body is read; the whole request is answered in a thread."""

    def check(self, head: Head) -> None:
        """Raise Refused for a request whose body need not be read."""

    def answer(self, head: Head, body: bytes) -> Response:
        """Return the answer to a whole request, or raise Refused."""

    def refuse(self, head: Head | None, error: Refused) -> Response:
        """Return the answer to what was refused; ``head`` is None where it could not be read."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What callers may take: bytes of one body and of all in memory, connections, seconds of a request and between."""

    body_bytes: int = 64_000_000
    all_bodies_bytes: int = 256_000_000
    connections: int = 128
    request_s: float = 30.0
    idle_s: float = 75.0
    closing_s: float = 1.0
    stopping_s: float = 0.25


class Shared:
    """What the connections of a service have in common."""

    def __init__(self, answers: Answers, limits: Limits, inspecting: Executor, viewing: Executor) -> None:
        self.answers = answers
        self.limits = limits
        self.inspecting = inspecting
        self.viewing = viewing  # of its own, so that health is told while parts wait
        self.stopping = False
        self._held = 0

    @contextmanager
    def holding(self, length: int) -> Iterator[None]:
        """Count a body while it is in memory; raises Refused (503) where all of them would be too much."""
        if self._held + length > max(self.limits.all_bodies_bytes, length):
            message = "too many pictures at once"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, message, fix="Send it again", fields=_RETRY)
        self._held += length
        try:
            yield
        finally:
            self._held -= length


class Connection:
    """A client's connection; ``run`` returns when it is closed."""

    def __init__(self, shared: Shared, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._shared = shared
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()  # what has arrived and was not taken yet: pipelined requests wait here
        self._idle: asyncio.Timeout | None = None

    async def run(self) -> None:
        """Answer requests until the client or the service has had enough."""
        try:
            while await self._begun() and await self._exchange():
                pass
            await self._close()
        except OSError:  # the client went away, or takes no answer in time
            pass
        finally:
            self._writer.transport.abort()

    async def turn_away(self) -> None:
        """Answer that there are too many connections, and close."""
        message, fix = "too many connections", "Keep one connection open instead of many, or try again"
        busy = Refused(HTTPStatus.SERVICE_UNAVAILABLE, message, fix=fix, fields=_RETRY)
        try:
            await self._send(encode(self._shared.answers.refuse(None, busy), keep_alive=False))
            await self._close()
        except OSError:
            pass
        finally:
            self._writer.transport.abort()

    def hasten(self) -> None:
        """Wait no longer for a next request than one takes that is on its way already."""
        if self._idle is not None and not self._idle.expired():
            self._idle.reschedule(asyncio.get_running_loop().time() + self._shared.limits.stopping_s)

    async def _begun(self) -> bool:
        limits = self._shared.limits
        if self._buffer:
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.stopping_s if self._shared.stopping else limits.idle_s) as self._idle:
                self._buffer += await self._reader.read(CHUNK)
        self._idle = None
        return bool(self._buffer)

    async def _exchange(self) -> bool:
        """Read a request and answer it; return whether another may follow."""
        head, whole = None, False
        try:
            with contextlib.ExitStack() as held:
                async with asyncio.timeout(self._shared.limits.request_s):
                    head = parse_head(await self._read_head())
                    whole = not head.length
                    self._check(head)
                    held.enter_context(self._shared.holding(head.length))
                    body = await self._read_body(head)
                whole = True
                response = await self._answer(head, body)
        except Refused as error:
            response = self._shared.answers.refuse(head, error)
        except TimeoutError:
            response = self._shared.answers.refuse(head, self._late())
        # Behind a body left unread nobody knows where the next request begins.
        leaving = self._shared.stopping and not self._buffer
        keep_alive = head is not None and whole and head.keep_alive and not leaving
        only_head = head is not None and head.method == "HEAD"
        await self._send(encode(response, keep_alive=keep_alive, without_body=only_head))
        return keep_alive

    async def _read_head(self) -> bytes:
        self._buffer[:2] = self._buffer[:2].removeprefix(b"\r\n")  # RFC 9112, 2.2: one empty line before is forgiven
        seen = 0
        while (end := self._buffer.find(b"\r\n\r\n", seen, HEAD_BYTES)) < 0:
            if len(self._buffer) >= HEAD_BYTES:
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                raise Refused(status, "the request's head is too large", expected=f"at most {HEAD_BYTES} bytes")
            seen = max(0, len(self._buffer) - 3)
            await self._more()
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        return head

    async def _read_body(self, head: Head) -> bytes:
        if "expect" in head.fields and not self._buffer:
            await self._send(_CONTINUE)
        while len(self._buffer) < head.length:
            await self._more()
        body = bytes(memoryview(self._buffer)[: head.length])
        del self._buffer[: head.length]
        return body

    async def _more(self) -> None:
        data = await self._reader.read(CHUNK)
        if not data:
            fix = "Send as many bytes as Content-Length says"
            raise Refused(HTTPStatus.BAD_REQUEST, "the request ends too early", fix=fix)
        self._buffer += data

    def _check(self, head: Head) -> None:
        if head.fields.get("expect", "100-continue").lower() != "100-continue":
            raise Refused(HTTPStatus.EXPECTATION_FAILED, "an unknown expectation", expected="100-continue")
        self._shared.answers.check(head)
        most = self._shared.limits.body_bytes
        if head.length > most:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "the body is too large",
                expected=f"at most {most} bytes",
                found=f"{head.length}",
                fix="Send a smaller picture, or start the service with --max-body-mb",
            )

    def _late(self) -> Refused:
        limit = f"the whole request within {self._shared.limits.request_s:g} s"
        fix = "Send it at once; ask for a slow network's cause"
        return Refused(HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time", expected=limit, fix=fix)

    async def _answer(self, head: Head, body: bytes) -> Response:
        pool = self._shared.inspecting if head.method == "POST" else self._shared.viewing
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(pool, self._shared.answers.answer, head, body)
        except Refused:
            raise
        except Exception as error:
            logging.getLogger(__name__).exception("a request could not be answered")
            message, fix = "the service failed", "See what it said on its standard error"
            raise Refused(HTTPStatus.INTERNAL_SERVER_ERROR, message, fix=fix) from error

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(self._shared.limits.request_s):
            await self._writer.drain()

    async def _close(self) -> None:
        """Let the client read to the end: closing on bytes not yet read would reset the connection, and the answer."""
        self._writer.write_eof()
        async with asyncio.timeout(self._shared.limits.closing_s):
            while await self._reader.read(CHUNK):
                pass
