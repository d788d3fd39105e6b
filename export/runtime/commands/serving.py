"""The command that answers pictures over HTTP."""

import argparse
import os
import shlex
from functools import partial
from pathlib import Path

from export.runtime.commands.common import Commands, at_least, say, store_of, trusted_keys

_PORT = 8765


def add(commands: Commands, keys: argparse.ArgumentParser) -> None:
    """Add serve."""
    serve = commands.add_parser("serve", parents=[keys], help="answer pictures over HTTP, and show a live page")
    serve.add_argument("--host", default="127.0.0.1", metavar="H", help="the address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=_port, default=_PORT, metavar="P", help=f"default: {_PORT}; 0 takes a free one")
    serve.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="what callers must know, which every address but the default needs (else: $STATION_TOKEN)",
    )
    serve.add_argument(
        "--max-body-mb", type=at_least(float, 0), default=64.0, metavar="N", help="the largest picture (default: 64)"
    )
    serve.set_defaults(run=_serve)


def _port(text: str) -> int:
    if not 0 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, found {text}")
    return int(text)


def _serve(options: argparse.Namespace) -> int:
    from export.runtime.live.inspector import Inspector
    from export.runtime.log.history import History
    from export.runtime.serve.access import Access, is_loopback, read_token
    from export.runtime.serve.connection import Limits
    from export.runtime.serve.server import serve
    from export.runtime.serve.service import Service
    from export.runtime.settings import read_settings

    host, store = options.host, store_of(options)
    token = read_token(options.token_file, os.environ.get("STATION_TOKEN"), host)

    def ready(port: int) -> None:
        at = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        who = "" if token is None else " -H 'Authorization: Bearer TOKEN'"
        url = shlex.quote(f"{at}/inspect?part=NAME")
        say(f"bundle {inspector.status()['bundle']} answers at {at}; its live page: {at}/; Ctrl-C ends it")
        say(f"next: curl -H 'Content-Type: image/png'{who} --data-binary @PICTURE {url}")

    limits = Limits(body_bytes=int(options.max_body_mb * 1e6))
    with Inspector.open(store, partial(trusted_keys, options), say) as inspector, History(store) as history:
        service = Service(inspector, history, Access(token, is_loopback(host)), read_settings(store).drift)
        code = serve(service, host, options.port, limits, ready)
    say("stopped: every verdict told is on record")
    return code
