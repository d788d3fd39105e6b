"""The commands that judge the score itself: `factory score` and `factory correlate`."""

import os
import re
from pathlib import Path
from typing import Any

import click

from export.runtime.errors import UsageError
from factory.commands import command, emit, engine_options, json_option, runs_option, say_next

space_option = click.option("--space", required=True, help="Search space: darts, nasbench201, residual, ...")
protocol_option = click.option(
    "--protocol",
    type=click.Choice(("paper", "factory", "smooth")),
    help="How to measure; else paper for darts, factory for the others.",
)
images_option = click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of pictures, or .npz; else made ones with the spectrum of photographs.",
)
seed_option = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all draws.")


@click.command()
@space_option
@click.option("--arch", required=True, help="Architecture, in the form its benchmark prints.")
@protocol_option
@images_option
@seed_option
@click.option("--mu", type=float, help="Of the size regulariser, in thousands of parameters; else from the space.")
@click.option("--sigma", type=click.FloatRange(min=0, min_open=True), help="In thousands of parameters, squared.")
@json_option
@command
def score(
    space: str,
    arch: str,
    protocol: str | None,
    images: Path | None,
    seed: int,
    mu: float | None,
    sigma: float | None,
    as_json: bool,
) -> None:
    """Print the SWAP-Score of one architecture, plain and regularised by size."""
    from factory.evidence.measures import protocol_for, space_named
    from factory.evidence.single import score_one
    from factory.score.regulariser import SizeRegulariser

    chosen = space_named(space)
    if (mu is None) != (sigma is None):
        raise UsageError("--mu and --sigma go together", expected="both or none", found="one of them")
    size = None if mu is None or sigma is None else SizeRegulariser(mu, sigma)
    document = score_one(chosen, arch, protocol_for(chosen, protocol), images, seed, size)
    if as_json:
        emit(document)
    else:
        from factory.tables_evidence import show_score

        show_score(document)
    say_next(f"factory correlate --space {space} --table TABLE.csv --metric COLUMN")


@click.command()
@space_option
@click.option("--table", required=True, type=click.Path(path_type=Path), help="Trained networks: .csv or .jsonl.")
@click.option("--metric", required=True, help="Column of the trained result; more is better.")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Take these rows only; may be repeated.")
@click.option("--sample", type=click.IntRange(min=3), help="Draw so many networks; else all.")
@seed_option
@images_option
@protocol_option
@click.option("--scores", default="", help="Scores to compare, with commas between; else all fifteen.")
@click.option("--ablation", is_flag=True, help="Compare kinds of activation patterns over input sizes, too.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of correlate.json and .svg.")
@runs_option
@engine_options
@click.option("--workers", type=click.IntRange(min=1), help="How many work at a time; else one a processor.")
@json_option
@command
def correlate(
    space: str,
    table: Path,
    metric: str,
    where: tuple[str, ...],
    sample: int | None,
    seed: int,
    images: Path | None,
    protocol: str | None,
    scores: str,
    ablation: bool,
    out: Path | None,
    runs: Path,
    engine: Any,
    address: str | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Print how well training-free scores rank the networks of a table of trained results."""
    from factory.engine import engine as opened
    from factory.evidence import correlate as evidence
    from factory.evidence.measures import checked_scores, protocol_for, space_named
    from factory.progress import ticker

    chosen = space_named(space)
    question = evidence.Question(
        space=chosen,
        table=table,
        metric=metric,
        where=tuple(_condition(text) for text in where),
        sample=sample,
        seed=seed,
        protocol=protocol_for(chosen, protocol),
        images=images,
        scores=checked_scores([name.strip() for name in scores.split(",") if name.strip()]),
        ablate=ablation,
    )
    trained = evidence.read(question)
    steps = len(trained.networks) * (2 if ablation else 1)
    with opened(engine, workers or os.cpu_count() or 1, address) as machine, ticker("networks", steps) as tick:
        document = evidence.correlate(question, trained, machine, tick)
    folder = out or runs / _folder(question)
    _write(folder, document)
    if as_json:
        emit(document)
    else:
        from factory.tables_evidence import show_correlation

        show_correlation(document)
        click.echo(f"figure: {folder / 'correlate.svg'}")
    say_next(f"factory score --space {space} --arch ARCH")


def _condition(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not equals:
        raise UsageError("--where is not understood", expected="COLUMN=VALUE", found=text)
    return column, value


def _folder(question: Any) -> str:
    parts = ("correlate", question.space.name, question.metric, *(value for _, value in question.where))
    return re.sub(r"[^\w.-]", "_", "-".join(parts))


def _write(folder: Path, document: dict[str, Any]) -> None:
    from factory.evidence.figure import correlation_figure
    from factory.workspace import write_atomic, write_json

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "correlate.json", document)
    write_atomic(folder / "correlate.svg", correlation_figure(document).encode())
