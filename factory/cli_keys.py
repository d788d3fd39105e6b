"""The commands `factory keys`: the key that signs bundles, and what the stations are told about keys."""

import shlex
from dataclasses import asdict
from pathlib import Path

import click

from export.runtime.errors import UsageError
from export.runtime.statement import Statement
from factory.commands import command, default_key, emit, json_option, key_option, say_next


@click.group()
def keys() -> None:
    """Signing keys: which one signs, which are trusted, which no longer."""


@keys.command("new")
@click.argument("path", required=False, type=click.Path(dir_okay=False, path_type=Path))
@command
def new(path: Path | None) -> None:
    """Make a key pair: PATH for the workstation, PATH.pub for the stations. Default: where `factory run` looks."""
    from export.runtime.keys import new_key

    place = path or default_key()
    identity = new_key(place)
    click.echo(f"key {identity}: {place} (keep it secret), {place}.pub (give it to the stations)")
    say_next("factory run LINE" if path is None else f"factory run LINE --key {place}")


@keys.command("rotate")
@key_option
@command
def rotate(key: Path) -> None:
    """Make a new key that signs from now on; the one before stays trusted until it is revoked."""
    from factory import signing

    identity = signing.rotate(key)
    click.echo(f"key {identity} signs from now on: {key}; those before it are kept beside it")
    _carry(key)


@keys.command("revoke")
@click.argument("key_id", required=False)
@click.option("--before", type=click.Path(path_type=Path), metavar="BUNDLE", help="Forbid the line's older bundles.")
@click.option("--reason", default="not stated", show_default=True, help="Why, for the people at the stations.")
@key_option
@command
def revoke(key_id: str | None, before: Path | None, reason: str, key: Path) -> None:
    """Say that a key, or every bundle of a line made before BUNDLE, is trusted no longer."""
    from factory import signing

    if (key_id is None) == (before is None):
        raise UsageError("one thing is revoked at a time", expected="KEY_ID or --before BUNDLE", fix="Name one of them")
    said: Statement
    if key_id is not None:
        said = signing.revoke(key, key_id, reason)
        click.echo(f"key {key_id} is revoked by statement {said.sequence}")
    elif before is not None:
        said = signing.revoke_before(key, before)
        click.echo(f"bundles older than {before} are forbidden by statement {said.sequence}")
    _carry(key)


@keys.command("list")
@key_option
@json_option
@command
def list_(key: Path, as_json: bool) -> None:
    """List every key with its name, its id and its state, and the number of the last statement."""
    from factory import signing

    sequence, found = signing.known(key)
    if as_json:
        emit({"sequence": sequence, "keys": [asdict(one) for one in found]})
        return
    for one in found:
        click.echo(f"{one.key_id}  {one.state:8}{one.reason if one.name is None else one.name}")
    click.echo(f"statement {sequence}" if sequence else "no statement yet: the stations trust what was copied to them")
    if sequence:
        _carry(key)
    else:
        say_next(f"carry {key}.pub to the stations; there: station trust {shlex.quote(key.name)}.pub")


def _carry(key: Path) -> None:
    from factory.signing import statement_path

    path = statement_path(key)
    say_next(f"carry {path} to every station; there: station trust {shlex.quote(path.name)}")
