"""The picture in the body of a request, sent in whichever of four ways, and the part it shows."""

import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

from export.runtime.serve.message import Head, Refused, parse_fields

TAKEN: Final = "image/*, application/octet-stream, application/json, multipart/form-data"
_NAMES: Final = ("image", "part")
_PART_CHARACTERS: Final = 200
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046, 5.1.1
_FIX: Final = "Send the picture's bytes as image/png, or see the README for the other ways"


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture as sent, not yet looked at, and the name of its part where one was given."""

    picture: bytes
    part: str | None


def check_kind(head: Head) -> None:
    """Raise Refused (415) for a content type that holds no picture."""
    kind = _kind(head).get_content_type() if "content-type" in head.fields else "none"
    known = ("application/octet-stream", "application/json", "multipart/form-data")
    if kind not in known and not kind.startswith("image/"):
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "this content type holds no picture",
            expected=TAKEN,
            found=ascii(kind),
            fix="Add the header Content-Type: application/octet-stream",
            fields=(("Accept-Post", TAKEN),),
        )


def read_upload(head: Head, body: bytes) -> Upload:
    """Return the picture that a body holds; raises Refused (400, 415) where it is not as its content type says."""
    check_kind(head)
    kind = _kind(head)
    match kind.get_content_type():
        case "application/json":
            fields = _of_json(body)
        case "multipart/form-data":
            fields = _of_form(body, kind.get_param("boundary"))
        case _:
            fields = {"image": body}
    named = _query_part(head.query)
    if named is not None and "part" in fields:
        raise _bad("the part is named twice", "in the address or in the body", "both")
    part = named if "part" not in fields else _text(fields["part"])
    return Upload(fields["image"], None if part is None else checked_part(part))


def checked_part(part: str) -> str:
    """Return the name of a part; raises Refused for one that no list could show on a line."""
    if not (0 < len(part) <= _PART_CHARACTERS and part.isprintable()):
        raise _bad("the part's name cannot be used", f"1 to {_PART_CHARACTERS} printable characters", ascii(part[:60]))
    return part


def _kind(head: Head) -> Message:
    message = Message()
    message["Content-Type"] = head.fields.get("content-type", "")
    return message


def _query_part(query: str) -> str | None:
    try:
        found = parse_qs(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=1)
    except ValueError as error:
        raise _bad("the address is malformed behind its '?'", "part=NAME", ascii(query[:60])) from error
    if found.keys() - {"part"}:
        raise _bad("the address asks for something unknown", "part=NAME", ascii(query[:60]))
    return found["part"][0] if found else None


def _of_json(body: bytes) -> Mapping[str, bytes]:
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _bad("the body is not sound JSON", '{"image": BASE64, "part": NAME}', ascii(str(error)[:100])) from error
    if not isinstance(value, dict) or not {"image"} <= value.keys() <= set(_NAMES):
        raise _bad("the JSON is not as expected", 'an object with "image" and perhaps "part"', _shown(value))
    wrong = [name for name, text in value.items() if not isinstance(text, str)]
    if wrong:
        raise _bad(f'"{wrong[0]}" is no text', "a string", type(value[wrong[0]]).__name__)
    try:
        image = binascii.a2b_base64(value["image"], strict_mode=True)
        return {"image": image} | {name: value[name].encode("utf-8") for name in ("part",) if name in value}
    except ValueError as error:  # of base64 and of a lone surrogate alike
        raise _bad("the JSON holds no picture", "base64 (RFC 4648) and Unicode", ascii(str(error)[:100])) from error


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return names


def _of_form(body: bytes, boundary: object) -> Mapping[str, bytes]:
    """Return the fields of a form by name (RFC 7578), without a preamble, an epilogue or a file left open."""
    if not isinstance(boundary, str) or _BOUNDARY.fullmatch(boundary) is None:
        raise _bad("the form has no sound boundary", "multipart/form-data; boundary=TEXT", ascii(str(boundary)[:80]))
    line = b"\r\n--" + boundary.encode("ascii")
    before, *parts = (b"\r\n" + body).split(line, len(_NAMES) + 1)
    if before or len(parts) < 2 or parts.pop() not in (b"--", b"--\r\n"):
        raise _bad("the form is cut or malformed", "the fields image and part, closed by the boundary", "another")
    fields: dict[str, bytes] = {}
    for part in parts:
        name, value = _form_field(part)
        if name in fields or name not in _NAMES:
            raise _bad("the form is not as expected", "the field image once, part at most once", ascii(name[:60]))
        fields[name] = value
    if "image" not in fields:
        raise _bad("the form holds no picture", "a field named image", "none")
    return fields


def _form_field(part: bytes) -> tuple[str, bytes]:
    head, end, value = part.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    if first.strip(b" \t") or not end:
        raise _bad("a field of the form is cut", "header fields, an empty line and the value", "no empty line")
    message = Message()
    message["Content-Disposition"] = parse_fields(lines).get("content-disposition", "")
    name = message.get_param("name", header="content-disposition")
    if message.get_content_disposition() != "form-data" or not isinstance(name, str):
        raise _bad("a field of the form has no name", 'Content-Disposition: form-data; name="image"', "none")
    return name, value


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad("the part's name is not UTF-8", "UTF-8", ascii(data[:20])) from error


def _shown(value: object) -> str:
    return ascii(sorted(value))[:80] if isinstance(value, dict) else type(value).__name__


def _bad(message: str, expected: str, found: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, message, expected=expected, found=found, fix=_FIX)
