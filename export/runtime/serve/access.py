"""Who may ask: beyond this machine whoever knows a token, on it all but the pages of other sites in a browser."""

import hashlib
import hmac
import ipaddress
import os
import re
import stat
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from export.runtime.errors import UsageError
from export.runtime.serve.message import Head, Refused

TOKEN_CHARACTERS: Final = 16
_TOKEN: Final = re.compile(rf"[\x21-\x7e]{{{TOKEN_CHARACTERS},1000}}")
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_COOKIE: Final = "station"
_DAYS: Final = 30


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(file: Path | None, variable: str | None, host: str) -> str | None:
    """Return the token of a file, else the environment's, else None, which does on a loopback address alone.

    Raises UsageError where another address has none, and for a token that is short, malformed or readable by others.
    """
    if file is None and variable is None:
        if is_loopback(host):
            return None
        raise UsageError(
            f"listening on {host} needs a token",
            expected="--token-file FILE or the variable STATION_TOKEN",
            found="neither",
            fix="Make one: (umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe())' > station.token)",
        )
    token = variable or "" if file is None else _of_file(file)
    if _TOKEN.fullmatch(token) is None:
        raise UsageError(
            "the token cannot be used",
            expected=f"{TOKEN_CHARACTERS} or more ASCII characters on one line, without a space",
            found=f"{len(token)} characters",
            fix="Make one: python3 -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    return token


def _of_file(file: Path) -> str:
    with file.open("rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        text = stream.read(4096)
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            f"others can read the token in {file}",
            expected="permissions 600",
            found=f"{stat.S_IMODE(mode):o}",
            fix=f"chmod 600 {file}, and make a new token if others use this machine",
        )
    return text.decode("latin-1").removesuffix("\n").removesuffix("\r")


@dataclass(frozen=True, slots=True)
class Access:
    """The rule: ``token`` is what a caller must know, if any; ``loopback``: only this machine can call."""

    token: str | None
    loopback: bool

    def check_site(self, head: Head) -> None:
        """Raise Refused for what a foreign web page makes a browser send: another Host (DNS rebinding) or Origin."""
        host = head.fields.get("host")
        if host is None:
            raise _refused(HTTPStatus.BAD_REQUEST, "the header Host is missing", "Host: NAME", "none")
        if self.loopback and _name(host) not in _LOCAL:
            raise _refused(HTTPStatus.FORBIDDEN, "another machine's name", "localhost, 127.0.0.1 or [::1]", ascii(host))
        origin = head.fields.get("origin")
        # The scheme is left out: in front of a page on https there is a proxy that speaks http to this service.
        if head.method == "POST" and origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise _refused(HTTPStatus.FORBIDDEN, "sent by another site's page", f"Origin {host!a}", ascii(origin))

    def check_caller(self, head: Head) -> None:
        """Raise Refused (401) unless the caller shows the token, or the cookie that the page's login gave."""
        if self.token is None:
            return
        scheme, _, shown = head.fields.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.knows(shown.strip()):
            return
        cookies = (pair.strip().partition("=") for pair in head.fields.get("cookie", "").split(";"))
        if any(name == _COOKIE and _same(value, self._cookie()) for name, _, value in cookies):
            return
        raise Refused(
            HTTPStatus.UNAUTHORIZED,
            "the token is missing or wrong",
            expected="Authorization: Bearer TOKEN",
            found="another" if shown else "none",
            fix="Ask whoever runs this station for its token",
            fields=(("WWW-Authenticate", "Bearer"),),
        )

    def knows(self, shown: str) -> bool:
        """Return whether that is the token, in a time that does not tell how much of it is right."""
        return self.token is not None and _same(shown, self.token)

    def login(self, form: bytes) -> str | None:
        """Return the cookie to set for a login form with the right token in its field ``token``, else None."""
        try:
            shown = parse_qs(form.decode("ascii"), max_num_fields=1).get("token", [""])[0]
        except ValueError:
            return None
        if not self.knows(shown):
            return None
        return f"{_COOKIE}={self._cookie()}; Path=/; Max-Age={_DAYS * 86_400}; HttpOnly; SameSite=Strict"

    def _cookie(self) -> str:
        # Not the token itself: a browser keeps it for weeks.
        return hmac.new((self.token or "").encode(), b"cookie of the live page", hashlib.sha256).hexdigest()


def _same(shown: str, right: str) -> bool:
    return hmac.compare_digest(shown.encode("utf-8"), right.encode("utf-8"))


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _refused(status: HTTPStatus, message: str, expected: str, found: str) -> Refused:
    fix = "Call the address that the station said at its start"
    return Refused(status, message, expected=expected, found=found, fix=fix)
