"""The two pages for people, each one file without anything from elsewhere, and the policy that holds them to it."""

import base64
import hashlib
import re
from functools import cache
from http import HTTPStatus
from pathlib import Path

from export.runtime.serve.message import Response

_OWN = re.compile(rb"<(style|script)>(.*?)</\1>", re.DOTALL)


@cache
def live_page() -> Response:
    """Return the page that shows the last parts."""
    return _page("page.html", HTTPStatus.OK)


@cache
def login_page() -> Response:
    """Return the page that asks for the token."""
    return _page("login.html", HTTPStatus.UNAUTHORIZED)


def _page(name: str, status: HTTPStatus) -> Response:
    data = Path(__file__).with_name(name).read_bytes()
    return Response(status, data, "text/html; charset=utf-8", (("Content-Security-Policy", _policy(data)),))


def _policy(page: bytes) -> str:
    """Allow by hash exactly the style and the script that stand in the page (CSP 3, section 2.3.1)."""
    hashes = {"style": "'none'", "script": "'none'"}
    for kind, text in _OWN.findall(page):
        hashes[kind.decode()] = f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
    return (
        f"default-src 'none'; style-src {hashes['style']}; script-src {hashes['script']}; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
