"""One finished run of a tiny line, shared by the tests that look at what a run leaves."""

import importlib.util
import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from export.runtime.keys import new_key
from export.runtime.tensorrt_library import MODULES
from tests.tiny import factory, make_images, make_line

# With the extra `rtx` the run builds a real engine, too; without it, as on a machine that has no wheels for it, none.
RTX = all(importlib.util.find_spec(name) for name in MODULES["tensorrt-rtx"])


@dataclass(frozen=True)
class Finished:
    """A complete run."""

    profile: Path
    images: Path
    runs: Path
    key: Path
    document: dict[str, Any]
    result: Result

    @property
    def bundle(self) -> Path:
        return Path(self.document["bundle"])

    def again(self, command: str, *options: str | Path) -> Result:
        """Call one command of the line on the finished run."""
        return factory(command, self.profile, "--runs", self.runs, *options)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """A shell's background job ignores Ctrl-C, and so would all that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Run a tiny line from pictures to bundle, once a session."""
    folder = tmp_path_factory.mktemp("finished")
    images = make_images(folder / "images")
    profile = make_line(folder, images, also_for=("rtx-station",) if RTX else ())
    new_key(folder / "test.key")
    result = factory("run", profile, "--runs", folder / "runs", "--key", folder / "test.key", "--json")
    assert result.exit_code == 0, result.output
    return Finished(profile, images, folder / "runs", folder / "test.key", json.loads(result.stdout), result)
