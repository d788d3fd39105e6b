"""The live page in a real browser: what it shows, and that a part's name stays a name."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

Grey = Callable[[int], bytes]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")


def browse(url: str, profile: Path, *more: str) -> str:
    """Return the page's DOM after five of its own seconds, which pass at once where nothing is awaited."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
        "--window-size=1280,800", "--virtual-time-budget=5000", *more, "--dump-dom", url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def text_of(dom: str, identity: str) -> str:
    found = re.search(rf'id="{identity}"[^>]*>(.*?)</', dom, re.DOTALL)
    assert found, identity
    return unescape(found[1])


def test_the_page_shows_the_last_parts_and_a_hostile_name_as_text(service: Any, grey: Grey, tmp_path: Path) -> None:
    for part, picture in (("P-1", grey(40)), ("P-2", grey(200)), ("P-3", b"no picture"), (HOSTILE, grey(210))):
        service.inspect(picture, f"/inspect?part={quote(part)}")
    dom = browse(f"http://127.0.0.1:{service.port}/", tmp_path)
    assert (text_of(dom, "word"), text_of(dom, "part")) == ("reject", HOSTILE)
    assert re.search(r'id="last"[^>]*data-verdict="reject"', dom)
    tiles = re.findall(r'<li [^>]*id="part-\d+"[^>]*data-verdict="(\w+)".*?</li>', dom, re.DOTALL)
    assert tiles == ["reject", "review", "reject", "pass"]
    names = [unescape(name) for name in re.findall(r'<div class="id" title="([^"]*)"', dom)]
    assert names == [HOSTILE, "P-3", "P-2", "P-1"]
    assert ["…" + HOSTILE[-17:], *names[1:]] == [
        unescape(text) for text in re.findall(r'<div class="id"[^>]*>(.*?)</div>', dom)
    ]
    assert "<title>Inspection station</title>" in dom and dom.count("<script>") == 1
    counts = dict(re.findall(r"<dt>(\w+)</dt><dd>(\d+)</dd>", dom))
    assert counts == {"pass": "1", "reject": "2", "review": "1"}
    assert re.search(r'id="banner" hidden=""', dom) and 'class="stale"' not in dom
    assert len(re.findall(r"<img [^>]*/parts/\d+/picture", dom)) == 4  # of the tiles but one, and the large one


def test_a_station_that_cannot_inspect_says_so_in_large(
    service: Any, grey: Grey, hold_log: Any, tmp_path: Path
) -> None:
    release = hold_log()
    service.inspect(grey(40))
    dom = browse(f"http://127.0.0.1:{service.port}/", tmp_path)
    release()
    said = text_of(dom, "banner")
    assert said.startswith("NOT INSPECTING: the verdict could not be put on record") and "is locked" in said
    assert not re.search(r'id="banner" hidden', dom)


def test_drift_is_told_on_the_page_and_drawn(service: Any, grey: Grey, tmp_path: Path) -> None:
    at = f"http://127.0.0.1:{service.port}"
    assert re.search(r'id="drift"[^>]* hidden', browse(f"{at}/", tmp_path / "before"))
    for _ in range(120):
        service.inspect(grey(250))
    dom = browse(f"{at}/", tmp_path / "after")
    assert re.fullmatch(r"DRIFT: \w+ is (higher|lower) since about part .* \(see the drawing\)", text_of(dom, "drift"))
    status, fields, drawn = service.ask("GET", "/drift.svg")
    assert (status, fields["content-type"]) == (200, "image/svg+xml")
    assert b"120 parts against the reference" in drawn and b" 0 alarms" not in drawn
    assert "120 parts against the reference" in browse(f"{at}/drift.svg", tmp_path / "drawing")


def test_the_page_of_another_site_learns_nothing_and_posts_nothing(service: Any, tmp_path: Path) -> None:
    at = f"http://127.0.0.1:{service.port}"
    page = tmp_path / "evil.html"
    page.write_text(f"""<title>?</title><script>
        const tries = [fetch("{at}/parts.json").then((answer) => answer.text()),
                       fetch("{at}/inspect", {{method: "POST", body: new Blob(["x"], {{type: "image/png"}})}}),
                       fetch("{at}/inspect", {{method: "POST", mode: "no-cors", body: new FormData()}})];
        Promise.allSettled(tries).then((done) => {{ document.title = JSON.stringify(done.map((one) => one.status)); }});
    </script>""")
    dom = browse(page.as_uri(), tmp_path / "profile")
    told = re.search(r"<title>(.*?)</title>", dom)
    assert told and json.loads(told[1])[:2] == ["rejected", "rejected"]
    assert service.recorded == []
