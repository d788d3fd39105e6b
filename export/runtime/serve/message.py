"""HTTP/1.1 messages (RFC 9112): a strict reader of request heads and a writer of answers, without a socket."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from export.runtime.errors import UsageError

HEAD_BYTES: Final = 16_384
_LINE_BYTES: Final = 8_192
_FIELDS: Final = 100

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_START: Final = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
# A line folded, or with a space before the colon, is read otherwise by other servers (request smuggling): none matches.
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_ONCE: Final = frozenset({
    "authorization", "content-disposition", "content-length", "content-type", "cookie", "expect", "host",
    "idempotency-key", "origin", "transfer-encoding",
})  # fmt: skip

_JSON: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_ALWAYS: Final = (
    "X-Content-Type-Options: nosniff\r\n"
    "Cache-Control: no-store\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
    "Referrer-Policy: same-origin\r\n"
)
_NO_CONTENT_AT_ALL: Final = "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"


class Refused(UsageError):  # noqa: N818
    """A request that is answered by an HTTP error; ``fields`` are header fields that go with the answer."""

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        fix: str | None = None,
        fields: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message, expected=expected, found=found, fix=fix)
        self.status = status
        self.fields = tuple(fields)


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before a request's body of ``length`` bytes; names of ``fields`` are in lower case."""

    method: str
    path: str
    query: str
    fields: Mapping[str, str]
    length: int
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; ``fields`` are header fields beside those that every answer has."""

    status: HTTPStatus
    body: bytes
    kind: str = "application/json"
    fields: tuple[tuple[str, str], ...] = ()


def parse_head(data: bytes) -> Head:
    """Return the head of a request from its bytes, which end before the empty line.

    Raises Refused for whatever two readers could understand differently, and for a body of unknown length.
    """
    lines = data.split(b"\r\n")
    start = _START.fullmatch(lines[0])
    if start is None:
        raise _bad("the request line is not one of HTTP", "METHOD /path HTTP/1.1", lines[0])
    method, target, major, minor = (part.decode("ascii") for part in start.groups())
    if len(lines[0]) > _LINE_BYTES:
        raise Refused(HTTPStatus.REQUEST_URI_TOO_LONG, "the address is too long", expected=f"{_LINE_BYTES} bytes")
    if major != "1":
        found = f"HTTP/{major}.{minor}"
        raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "another HTTP", expected="HTTP/1.1", found=found)
    if not target.startswith("/"):
        raise _bad("the address is not a path", "/path", target.encode(), "Call this service without a proxy between")
    fields = parse_fields(lines[1:])
    path, _, query = target.partition("?")
    asked = fields.get("connection", "").lower().replace(" ", "").split(",")
    keep_alive = minor != "0" and "close" not in asked
    return Head(method, path, query, fields, _length(method, fields), keep_alive)


def parse_fields(lines: Sequence[bytes]) -> dict[str, str]:
    """Return header fields by their names in lower case; raises Refused for a line that is none, or one twice."""
    if len(lines) > _FIELDS:
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise Refused(status, "too many header fields", expected=f"at most {_FIELDS}", found=str(len(lines)))
    fields: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise _bad("a header field is malformed", "Name: value", line)
        name, value = field[1].decode("ascii").lower(), field[2].strip(b" \t").decode("latin-1")
        if name in fields:
            if name in _ONCE:
                raise _bad(f"the header field {name} stands twice", "it once", line)
            value = f"{fields[name]}, {value}"
        fields[name] = value
    return fields


def _length(method: str, fields: Mapping[str, str]) -> int:
    length = fields.get("content-length")
    if "transfer-encoding" in fields:
        if length is not None:
            raise _bad("the body has two lengths", "Content-Length alone", b"Transfer-Encoding beside it")
        raise _no_length(f"Transfer-Encoding: {fields['transfer-encoding']}")
    if length is None:
        if method == "POST":
            raise _no_length("none")
        return 0
    if _LENGTH.fullmatch(length) is None:
        raise _bad("Content-Length is no number", "digits", length.encode("latin-1"))
    return int(length)


def _no_length(found: str) -> Refused:
    fix = "Send the picture whole, not in chunks"
    return Refused(HTTPStatus.LENGTH_REQUIRED, "no length", expected="Content-Length: BYTES", found=found, fix=fix)


def _bad(message: str, expected: str, found: bytes, fix: str = "Send a request of plain HTTP/1.1") -> Refused:
    shown = ascii(found[:60].decode("latin-1"))
    return Refused(HTTPStatus.BAD_REQUEST, message, expected=expected, found=shown, fix=fix)


def as_json(value: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return an answer of one JSON document; raises ValueError for NaN and infinity, which JSON cannot hold."""
    return Response(status, _JSON.encode(value).encode("ascii"))


def as_error(error: Refused, **more: object) -> Response:
    """Return the JSON answer to what was refused; ``more`` stands beside the error."""
    parts = {name: getattr(error, name) for name in ("message", "expected", "found", "fix")}
    answer = as_json({"error": parts} | more, error.status)
    return Response(answer.status, answer.body, fields=error.fields)


def encode(response: Response, *, keep_alive: bool, without_body: bool = False) -> bytes:
    """Return the bytes of an answer, to be sent by one write."""
    own = "".join(f"{name}: {value}\r\n" for name, value in response.fields)
    policy = "" if _names(response.fields, "Content-Security-Policy") else _NO_CONTENT_AT_ALL
    head = (
        f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n"
        f"Content-Type: {response.kind}\r\nContent-Length: {len(response.body)}\r\n"
        f"{own}{policy}{_ALWAYS}Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    )
    return head.encode("latin-1") + (b"" if without_body else response.body)


def _names(fields: Iterable[tuple[str, str]], name: str) -> bool:
    return any(own == name for own, _ in fields)
