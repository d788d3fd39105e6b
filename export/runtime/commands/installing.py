"""Commands about what runs at a station: install a bundle, go back, say what is installed."""

import argparse
import json
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.commands.common import Commands, add_bundle, say, store_of, trusted_keys
from export.runtime.errors import UsageError


def add(commands: Commands, keys: argparse.ArgumentParser) -> None:
    """Add install, rollback and status."""
    install = commands.add_parser("install", parents=[keys], help="test a bundle on this device and let it run here")
    add_bundle(install)
    install.add_argument(
        "--allow-older", action="store_true", help="take a bundle made before one that was installed here already"
    )
    install.set_defaults(run=_install)
    rollback = commands.add_parser("rollback", parents=[keys], help="go back at once to the bundle that ran before")
    rollback.set_defaults(run=_rollback)
    status = commands.add_parser("status", parents=[keys], help="say what runs here, since when, and what was measured")
    status.add_argument("--json", action="store_true", help="print the result as one JSON object")
    status.set_defaults(run=_status)


def _install(options: argparse.Namespace) -> int:
    from export.runtime.install.install import install

    version = install(
        options.bundle, trusted_keys(options), store_of(options), allow_older=options.allow_older, say=say
    )
    print(f"bundle {version.bundle} of the line {version.line} runs here since {version.since}")
    say("next: station inspect PICTURES, or station status; `station rollback` goes back to what ran before")
    return 0


def _rollback(options: argparse.Namespace) -> int:
    from export.runtime.install.install import rollback

    version = rollback(store_of(options), trusted_keys(options))
    print(f"bundle {version.bundle} of the line {version.line} runs here again since {version.since}")
    say("next: station inspect PICTURES, or station status; a second `station rollback` takes this one back")
    return 0


def _status(options: argparse.Namespace) -> int:
    from export.runtime.install.installed import lines, status

    document = status(store_of(options), _trusted_or_none(options))
    current = document["current"]
    print(json.dumps(document) if options.json else "\n".join(lines(document)))
    if current is None:
        say("next: station install BUNDLE")
        return 0
    if current["problem"]:
        whole = document["previous"] and not document["previous"]["problem"]
        say(f"next: station {'rollback' if whole else 'install BUNDLE'}, since what is installed cannot be loaded")
        return 1
    say("next: station inspect PICTURES")
    return 0


def _trusted_or_none(options: argparse.Namespace) -> Mapping[str, Ed25519PublicKey]:
    try:
        return trusted_keys(options)
    except UsageError:
        if options.trust:
            raise
        return {}  # no key is trusted any more: that is told of every version
