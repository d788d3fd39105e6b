"""What the service answers: verdicts for a controller, health and metrics for its keepers, a live page for people."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import asdict, fields
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final
from uuid import uuid4

from export.runtime.drift.detector import watched
from export.runtime.drift.plot import plot
from export.runtime.drift.recent import recent
from export.runtime.live.inspector import Answer, Inspector
from export.runtime.log.entry import written
from export.runtime.log.history import History
from export.runtime.serve import metrics, pages
from export.runtime.serve.access import Access
from export.runtime.serve.board import PARTS, Board
from export.runtime.serve.message import Head, Refused, Response, as_error, as_json
from export.runtime.serve.today import Today
from export.runtime.serve.upload import Upload, check_kind, read_upload
from export.runtime.settings import DriftSettings

_PICTURE: Final = re.compile(r"/parts/([0-9]{1,15})/picture")
_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")
_FACTS: Final = tuple(field.name for field in fields(Answer))
_FREE: Final = frozenset({"/healthz", "/login"})
_LOGIN_BYTES: Final = 4096
_OF_A_DRAWING: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

DRAWN: Final = 2000  # parts that the drawing of drift shows


class Service:
    """Answers requests by an inspector, whose log is ``history``; thread-safe."""

    def __init__(self, inspector: Inspector, history: History, access: Access, settings: DriftSettings) -> None:
        self._settings = settings
        self._inspector = inspector
        self._history = history
        self._access = access
        self._today = Today(history)
        self._board = Board()
        for entry in reversed(history.last(PARTS)):
            self._board.add(entry.source, asdict(entry), None)
        self._routes: dict[str, tuple[str, Callable[[Head, bytes], Response]]] = {
            "/": ("GET", lambda *_: pages.live_page()),
            "/inspect": ("POST", self._inspect),
            "/healthz": ("GET", self._health),
            "/metrics": ("GET", self._measured),
            "/parts.json": ("GET", self._parts),
            "/drift.svg": ("GET", self._drift),
            "/login": ("POST", self._login),
        }
        self._metrics = metrics.Metrics()

    def check(self, head: Head) -> None:
        """Raise Refused for a request whose body need not be read."""
        self._access.check_site(head)
        if head.path not in _FREE:
            self._access.check_caller(head)
        self._route(head)
        if head.path == "/inspect":
            check_kind(head)
        elif head.length > (_LOGIN_BYTES if head.method == "POST" else 0):
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "this path takes no such body", fix="Leave it out")

    def answer(self, head: Head, body: bytes) -> Response:
        """Return the answer to a whole request, or raise Refused."""
        response = self._route(head)(head, body)
        self._metrics.responded(response.status)
        return response

    def refuse(self, head: Head | None, error: Refused) -> Response:
        """Return the answer to what was refused: JSON, with a verdict where one was asked for, or the login page."""
        self._metrics.responded(error.status)
        if head is not None and head.path == "/" and error.status == HTTPStatus.UNAUTHORIZED:
            return pages.login_page()
        asked = head is not None and head.path == "/inspect"
        return as_error(error, **({"verdict": "reject"} if asked else {}))

    def _route(self, head: Head) -> Callable[[Head, bytes], Response]:
        known = self._routes.get(head.path) or (_PICTURE.fullmatch(head.path) and ("GET", self._picture))
        if not known:
            raise Refused(
                HTTPStatus.NOT_FOUND, "nothing is here", expected=", ".join(self._routes), found=ascii(head.path)
            )
        method, handler = known
        if head.method != method and (head.method, method) != ("HEAD", "GET"):
            allowed = "GET, HEAD" if method == "GET" else method
            raise Refused(
                HTTPStatus.METHOD_NOT_ALLOWED, "another method", expected=allowed, found=head.method,
                fields=(("Allow", allowed),),
            )  # fmt: skip
        return handler

    def _inspect(self, head: Head, body: bytes) -> Response:
        upload = read_upload(head, body)
        source = _source(head, upload)
        answer = self._inspector.inspect(upload.picture, upload.part or str(uuid4()), source)
        facts: dict[str, object] = {name: getattr(answer, name) for name in _FACTS}  # asdict would copy deeply
        self._metrics.answered(answer.ms)
        self._board.add(source, facts | {"time": _now()}, upload.picture)
        return as_json(facts, HTTPStatus.OK if answer.fault is None else HTTPStatus.UNPROCESSABLE_ENTITY)

    def _health(self, _: Head, __: bytes) -> Response:
        status = self._inspector.status()
        code = HTTPStatus.OK if status["healthy"] else HTTPStatus.SERVICE_UNAVAILABLE
        return as_json({name: status[name] for name in ("healthy", "problems")}, code)

    def _measured(self, _: Head, __: bytes) -> Response:
        text = self._metrics.text(self._inspector.status())
        return Response(HTTPStatus.OK, text.encode(), metrics.KIND)

    def _parts(self, _: Head, __: bytes) -> Response:
        today, parts = self._today.counts(), self._board.parts()
        return as_json({"time": _now(), **self._inspector.status(), "today": today, "parts": parts})

    def _drift(self, _: Head, __: bytes) -> Response:
        inspector, settings = self._inspector, self._settings
        values, reference = recent(self._history, str(inspector.status()["bundle"]), DRAWN), inspector.reference
        alarms = watched(values, reference, settings.parts_between_false_alarms, one_in=settings.one_in)
        drawn = plot(values, reference, alarms).encode()
        return Response(HTTPStatus.OK, drawn, "image/svg+xml", (("Content-Security-Policy", _OF_A_DRAWING),))

    def _picture(self, head: Head, _: bytes) -> Response:
        match = _PICTURE.fullmatch(head.path)
        small = self._board.small_picture(int(match[1])) if match else None
        if small is None:
            raise Refused(HTTPStatus.NOT_FOUND, "this picture is not shown", fix="Ask for one of /parts.json")
        return Response(HTTPStatus.OK, small, "image/jpeg")

    def _login(self, _: Head, form: bytes) -> Response:
        cookie = self._access.login(form)
        if cookie is None:
            return pages.login_page()
        headers = (("Location", "/"), ("Set-Cookie", cookie))
        return Response(HTTPStatus.SEE_OTHER, b"", "text/plain", headers)


def _source(head: Head, upload: Upload) -> str | None:
    """Return what makes this very picture known again, None where the client gave no key.

    A client's key alone would do so only where no key is ever given to a second part: a counter that starts anew each
    day would get yesterday's verdicts.
    """
    key = head.fields.get("idempotency-key")
    if key is None:
        return None
    if _KEY.fullmatch(key) is None:
        expected, found = "1 to 200 printable ASCII characters", ascii(key[:60])
        raise Refused(HTTPStatus.BAD_REQUEST, "Idempotency-Key cannot be used", expected=expected, found=found)
    picture = hashlib.sha256((upload.part or "").encode() + b"\0" + upload.picture).hexdigest()
    return f"http:{key}:{picture[:32]}"


def _now() -> str:
    return written(datetime.now(UTC))
