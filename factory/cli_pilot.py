"""The command `factory pilot`: whether this line's training gains from noise, and from which."""

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
@click.option(
    "--fraction",
    type=click.FloatRange(0.1, 0.95),
    default=0.7,
    show_default=True,
    help="Share of the training images that trains; the others judge.",
)
@click.option("--seeds", type=click.IntRange(2, 50), default=5, show_default=True, help="Trainings that judge an arm.")
@click.option("--epochs", type=click.IntRange(1), help="Of each training; else training.epochs, as the full one.")
@click.option("--apply", is_flag=True, help="Write the recommendation into the profile.")
@runs_option
@device_option
@engine_options
@json_option
@command
def pilot(
    line: str,
    fraction: float,
    seeds: int,
    epochs: int | None,
    apply: bool,
    runs: Path,
    device: str | None,
    as_json: bool,
    engine: str,
    address: str | None,
) -> None:
    """Train the chosen network with several kinds of noise, and say whether one is worth it."""
    from factory.newline import write_swapout
    from factory.workspace import read_json

    run = open_run(line, runs, engine, address, device)
    with run.workspace.locked():
        folder = run.pilot_stage(fraction, seeds, epochs or run.line.training.epochs).path
    document = read_json(folder / "pilot.json")
    if as_json:
        emit(document)
    else:
        from factory.tables_evidence import show_pilot

        show_pilot(document)
        click.echo(f"figure: {folder / 'pilot.svg'}")
    if apply:
        click.echo(f"wrote training.swapout of {write_swapout(line, document['settings'])}", err=True)
        say_next(f"factory run {line}")
    else:
        say_next(f"factory pilot {line} --apply, which writes that into the profile; then factory run {line}")
