"""The command `factory compare`: two bundles of a line against each other, on its test images."""

from pathlib import Path
from typing import Any

import click

from factory.commands import command, emit, json_option, line_argument, open_runs, runs_option, say_next


@click.command()
@line_argument
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--trust",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="Public key (.pub) of who signed, or a folder of them; may be repeated.",
)
@runs_option
@json_option
@command
def compare(line: str, a: Path, b: Path, trust: tuple[Path, ...], runs: Path, as_json: bool) -> None:
    """Run two bundles, A and B, on the line's test images as a station would, and say which decides better."""
    from factory.contest import contest, open_sides
    from factory.progress import ticker

    run, *_ = open_runs(line, runs)
    sides = open_sides((a, b), trust, run.line.classes)
    with run.workspace.locked(), ticker("verdicts", 2 * len(run.data.test.paths)) as tick:
        document = contest(run, sides, tick)
    if as_json:
        emit(document)
    else:
        _show(document)
    say_next("station inspect BUNDLE PICTURES --trust KEY.pub")


def _show(document: dict[str, Any]) -> None:
    for text in (document["sentence"], *document["notes"]):
        click.echo(text)
    click.echo(f"\n{'':20}{'A':>26}{'B':>26}{'B minus A, points':>26}")
    for name, row in document["figures"].items():
        cells = [_interval(row["a"], " %"), _interval(row["b"], " %"), _interval(row["difference"], "", "+")]
        click.echo(f"{name.replace('_', ' '):20}" + "".join(f"{cell:>26}" for cell in cells))
    for name, key in (("latency ms, signed", "latency_ms"), ("size MB", "size_mb")):
        values = ["-" if document[side][key] is None else f"{document[side][key]:.3f}" for side in "ab"]
        click.echo(f"{name:20}" + "".join(f"{value:>26}" for value in values))
    click.echo(f"\npage: {document['page']}")


def _interval(estimate: dict[str, float], unit: str, sign: str = "") -> str:
    """In hundredths; + 0.0 so that nothing reads -0.0."""
    value, low, high = (f"{round(100 * estimate[key], 1) + 0.0:{sign}.1f}" for key in ("value", "low", "high"))
    return f"{value}{unit} ({low} to {high})"
