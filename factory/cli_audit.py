"""The command `factory audit`: how far the score can be trusted on a line, measured on the line itself."""

from pathlib import Path

import click

from factory.commands import (
    command,
    device_option,
    emit,
    engine_options,
    json_option,
    line_argument,
    open_run,
    runs_option,
    say_next,
)


@click.command()
@line_argument
@click.option("--nets", type=click.IntRange(min=6), default=24, show_default=True, help="Random networks to train.")
@click.option("--epochs", type=click.IntRange(min=1), help="Of each training; else training.short_epochs.")
@runs_option
@device_option
@engine_options
@json_option
@command
def audit(
    line: str,
    nets: int,
    epochs: int | None,
    runs: Path,
    device: str | None,
    as_json: bool,
    engine: str,
    address: str | None,
) -> None:
    """Train random networks briefly, and say which score ranks them; the search then goes by that."""
    from factory.workspace import read_json

    run = open_run(line, runs, engine, address, device)
    with run.workspace.locked():
        folder = run.audit_stage(nets, epochs or run.line.training.short_epochs).path
    document = read_json(folder / "audit.json")
    if as_json:
        emit(document)
    else:
        from factory.tables_evidence import show_audit

        show_audit(document)
        click.echo(f"figure: {folder / 'audit.svg'}")
    say_next(f"factory search {line}")
