import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.runtime.errors import UsageError
from export.runtime.serve.access import Access, is_loopback, read_token

Grey = Callable[[int], bytes]
TOKEN = "correct-horse-battery"
KIND = {"Content-Type": "image/png"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "station.token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


def test_only_a_loopback_address_needs_no_token(file: Path) -> None:
    for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost"):
        assert is_loopback(host) and read_token(None, None, host) is None
    for host in ("0.0.0.0", "::", "192.168.1.7", "station.local", "", "localhost.evil.org"):
        assert not is_loopback(host)
        with pytest.raises(UsageError, match="needs a token"):
            read_token(None, None, host)
        assert read_token(file, None, host) == read_token(None, TOKEN, host) == TOKEN
    assert read_token(file, "another-token-than-that", "::1") == TOKEN


@pytest.mark.parametrize(
    "token", ["", "short", "x" * 15, "with a space in the middle", "two-lines-of\n-text-in-it", "ä" * 20]
)
def test_a_weak_or_malformed_token_is_refused(file: Path, token: str) -> None:
    with pytest.raises(UsageError, match="16 or more ASCII characters"):
        read_token(None, token, "0.0.0.0")
    file.write_text(token, "utf-8")
    with pytest.raises(UsageError, match="16 or more ASCII characters"):
        read_token(file, None, "127.0.0.1")


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_token_that_others_can_read_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(UsageError, match="others can read the token"):
        read_token(file, None, "127.0.0.1")


@pytest.mark.parametrize(
    "host", ["evil.org", "localhost.evil.org", "127.0.0.1.evil.org", "192.168.1.7:80", "[::2]", "[", ""]
)
def test_another_name_for_this_machine_is_refused(shared: Any, grey: Grey, host: str) -> None:
    """A page of evil.org, whose name is made to point here (DNS rebinding), says so in Host."""
    for method, path, body in (("GET", "/parts.json", None), ("GET", "/healthz", None), ("POST", "/inspect", grey(40))):
        assert shared.ask(method, path, body, KIND | {"Host": host})[0] == 403
    assert shared.recorded == []


def test_the_names_of_this_machine_are_taken_at_any_port(service: Any) -> None:
    for host in ("localhost", "LOCALHOST:9000", "127.0.0.1:1", "[::1]:8765"):
        assert service.ask("GET", "/parts.json", None, {"Host": host})[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.org", "null", "", "http://localhost.evil.org", "http://localhost:1"])
def test_the_page_of_another_site_cannot_post(shared: Any, grey: Grey, origin: str) -> None:
    assert shared.ask("POST", "/inspect", grey(40), KIND | {"Host": "localhost", "Origin": origin})[0] == 403
    assert shared.recorded == []


def test_its_own_page_can(service: Any, grey: Grey) -> None:
    own = {"Host": "localhost:8765", "Origin": "http://localhost:8765"}
    assert service.ask("POST", "/inspect", grey(40), KIND | own)[0] == 200


PATHS = [("GET", "/"), ("GET", "/parts.json"), ("GET", "/metrics"), ("GET", "/parts/1/picture"), ("GET", "/nowhere")]


SHOWN: list[dict[str, str]] = [
    {},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer wrong-horse-battery"},
    {"Authorization": f"Bearer {TOKEN[:-1]}"},
    {"Authorization": f"Bearer {TOKEN}x"},
    {"Authorization": f"Basic {TOKEN}"},
    {"Authorization": TOKEN},
    {"Cookie": f"station={TOKEN}"},
    {"Cookie": "station="},
    {"Cookie": "station"},
]


def test_without_the_token_there_is_health_and_a_login_alone(serve: Any, grey: Grey) -> None:
    with serve(token=TOKEN, loopback=False) as service:
        for shown in SHOWN:
            for method, path in PATHS:
                status, fields, body = service.ask(method, path, None, shown)
                assert status == 401, (path, shown)
                assert path == "/" or (fields["www-authenticate"] == "Bearer" and TOKEN not in body.decode())
            status, _, body = service.ask("POST", "/inspect", grey(40), KIND | shown)
            assert (status, json.loads(body)["verdict"]) == (401, "reject")
            assert b'type="password"' in service.ask("GET", "/", None, shown)[2]
            assert service.ask("GET", "/healthz", None, shown)[0] == 200
        assert service.recorded == []


def test_with_the_token_every_path_answers_whatever_the_host(serve: Any, grey: Grey) -> None:
    who = {"Authorization": f"Bearer {TOKEN}", "Host": "station-3.plant:8765"}
    with serve(token=TOKEN, loopback=False) as service:
        assert service.ask("POST", "/inspect", grey(40), KIND | who)[0] == 200
        assert [service.ask(method, path, None, who)[0] for method, path in PATHS] == [200, 200, 200, 200, 404]


def test_the_login_of_the_page_gives_a_cookie_that_no_script_and_no_other_site_gets(serve: Any) -> None:
    with serve(token=TOKEN, loopback=False) as service:
        for form in (b"", b"token=", b"token=wrong", b"token=%ff", b"\xff", b"a=1&b=2&c=3", f"tokens={TOKEN}".encode()):
            status, fields, _ = service.ask("POST", "/login", form)
            assert status == 401 and "set-cookie" not in fields
        status, fields, _ = service.ask("POST", "/login", f"token={TOKEN}".encode())
        assert (status, fields["location"]) == (303, "/")
        cookie, *rules = fields["set-cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(rules) and TOKEN not in cookie
        assert service.ask("GET", "/parts.json", None, {"Cookie": f"theme=dark; {cookie}"})[0] == 200
        assert service.ask("GET", "/parts.json", None, {"Cookie": cookie[:-1]})[0] == 401
        big = service.ask("POST", "/login", b"x" * 5000)
        assert big[0] == 413
        foreign = {"Origin": "http://evil.org"}
        assert service.ask("POST", "/login", f"token={TOKEN}".encode(), foreign)[0] == 403


def test_nobody_logs_in_where_there_is_no_token(service: Any) -> None:
    assert service.ask("POST", "/login", b"token=")[0] == 401
    assert Access(None, loopback=True).login(b"token=") is None


def test_the_pages_run_nothing_but_their_own_script(service: Any) -> None:
    _, fields, body = service.ask("GET", "/")
    rules = dict(rule.strip().split(" ", 1) for rule in fields["content-security-policy"].split(";"))
    assert rules["default-src"] == "'none'" and rules["frame-ancestors"] == "'none'"
    assert rules["script-src"].startswith("'sha256-") and "unsafe" not in fields["content-security-policy"]
    assert body.count(b"<script") == 1 and b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
    assert b" style=" not in body and b"https://" not in body and b"onclick" not in body
