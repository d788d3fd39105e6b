"""`station serve` as it is typed: in a process of its own, with what is installed."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from export.runtime.cli import main
from export.runtime.log.history import History

PROJECT = Path(__file__).parents[4]
TOKEN = "correct-horse-battery"
Grey = Callable[[int], bytes]


@contextmanager
def started(store: Path, *options: object) -> Iterator[tuple["subprocess.Popen[str]", str, int, str]]:
    """The process, its host and port, and the next command that it named."""
    command = [sys.executable, "-m", "export.runtime.cli", "serve", "--store", store, "--port", "0", *options]
    with subprocess.Popen(list(map(str, command)), cwd=PROJECT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said, following = process.stderr.readline(), process.stderr.readline()
            found = re.search(r"answers at http://(\[?[\w.:]+?\]?):(\d+); its live page", said)
            assert found, said + following + process.stderr.read()
            yield process, found[1], int(found[2]), following
        finally:
            process.kill()


def verdict(host: str, port: int, picture: bytes, **fields: str) -> tuple[int, str]:
    client = http.client.HTTPConnection(host, port, timeout=20)
    try:
        client.request("POST", "/inspect?part=P1", picture, {"Content-Type": "image/png"} | fields)
        answer = client.getresponse()
        return answer.status, json.loads(answer.read())["verdict"]
    finally:
        client.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_answers_until_a_signal_and_every_verdict_told_is_on_record(
    store: Path, grey: Grey, number: int, code: int
) -> None:
    with started(store) as (process, host, port, following):
        assert following.startswith("next: curl -H 'Content-Type: image/png' --data-binary @PICTURE ")
        assert verdict(host, port, grey(40)) == (200, "pass")
        assert verdict(host, port, grey(200)) == (200, "reject")
        with socket.create_connection((host, port), timeout=20) as idle:
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
            assert idle.recv(10) == b""
    assert (process.returncode, err) == (code, "stopped: every verdict told is on record\n")
    with History(store) as history:
        assert [entry.verdict for entry in history.last(9)] == ["reject", "pass"]


def test_another_address_is_served_to_those_who_know_the_token(store: Path, tmp_path: Path, grey: Grey) -> None:
    file = tmp_path / "station.token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    with started(store, "--host", "0.0.0.0", "--token-file", file) as (_, _, port, following):
        assert "-H 'Authorization: Bearer TOKEN'" in following and TOKEN not in following
        assert verdict("127.0.0.1", port, grey(40)) == (401, "reject")
        assert verdict("127.0.0.1", port, grey(40), Authorization=f"Bearer {TOKEN}") == (200, "pass")


def test_it_listens_on_the_other_loopback_too(store: Path, grey: Grey) -> None:
    if not socket.has_ipv6:
        pytest.skip("asked where there is IPv6")
    with started(store, "--host", "::1") as (_, host, port, _):
        assert host == "[::1]"
        assert verdict("::1", port, grey(40)) == (200, "pass")


def test_what_it_cannot_do_is_told_in_one_line(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STATION_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--store", str(store), "--port", port]) == 3
    assert capsys.readouterr().err == (
        f"error: cannot listen on port {port}: expected a free port, found another program's. "
        "Name another by --port, or end what listens there\n"
    )
    assert main(["serve", "--store", str(store), "--host", "0.0.0.0"]) == 2
    assert "error: listening on 0.0.0.0 needs a token" in capsys.readouterr().err
    monkeypatch.setenv("STATION_TOKEN", TOKEN)
    assert main(["serve", "--store", str(store), "--host", "203.0.113.7"]) == 2
    assert "error: cannot listen on 203.0.113.7: expected an address of this machine" in capsys.readouterr().err
    assert main(["serve", "--store", str(store), "--token-file", str(tmp_path / "none")]) == 2
    assert main(["serve", "--store", str(tmp_path / "empty"), "--trust", str(store / "trusted")]) == 2
    assert "installed" in capsys.readouterr().err
    for arguments in (["--port", "65536"], ["--port", "x"], ["--max-body-mb", "-1"]):
        with pytest.raises(SystemExit):
            main(["serve", *arguments])
