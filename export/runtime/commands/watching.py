"""The command that stays: watch a folder."""

import argparse
import json
import signal
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Event

from export.runtime.commands.common import Commands, say, store_of, trusted_keys
from export.runtime.errors import UsageError


def add(commands: Commands, keys: argparse.ArgumentParser) -> None:
    """Add watch."""
    watch = commands.add_parser("watch", parents=[keys], help="judge every picture that arrives in a folder")
    watch.add_argument("folder", type=Path, metavar="DIR", help="the folder that the camera's driver fills")
    watch.add_argument("--remove", action="store_true", help="remove each file once its verdict is on record and told")
    watch.set_defaults(run=_watch)


def _watch(options: argparse.Namespace) -> int:
    from export.runtime.live.inspector import Answer, Inspector
    from export.runtime.live.watch import watch
    from export.runtime.settings import read_settings

    folder: Path = options.folder
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise UsageError(f"no folder at {folder}", expected="a folder", found=found, fix="Make it, or name another")

    def tell(path: Path, answer: Answer, again: bool) -> None:
        print(json.dumps({"path": str(path), **asdict(answer), "again": again}), flush=True)

    store, stop = store_of(options), Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with Inspector.open(store, partial(trusted_keys, options), say) as inspector:
        status = inspector.status()
        say(f"bundle {status['bundle']} of the line {status['line']} judges what arrives in {folder}; Ctrl-C ends it")
        watch(
            folder, inspector, read_settings(store).watch, remove=options.remove, tell=tell, say=say, stop=stop
        )  # fmt: skip
    say("stopped: every verdict told is on record")
    return 0
