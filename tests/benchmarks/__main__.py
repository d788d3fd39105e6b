"""`make bench`: the measured claims, or one of them by name."""

from pathlib import Path

import click

from tests.benchmarks import prediction, probe, quality, resume, train_many

runs_option = click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)


@click.group(invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Measured claims; without a name, those that need no finished run."""
    if context.invoked_subcommand is None:
        probe.main()
        prediction.main()


main.command("probe")(probe.main)
main.command("prediction")(prediction.main)


@main.command("quality")
@click.argument("line", default="solar-cells")
@runs_option
@click.option("--lite-epochs", default=0, show_default=True, help="Epochs of the pretrained network; 0 leaves it out.")
def _quality(line: str, runs: Path, lite_epochs: int) -> None:
    quality.main(line, runs, lite_epochs)


@main.command("resume")
@click.argument("line", default="solar-cells")
@runs_option
@click.option("--key", type=click.Path(path_type=Path), default=Path("data/demo.key"), show_default=True)
@click.option("--kills", default=10, show_default=True)
def _resume(line: str, runs: Path, key: Path, kills: int) -> None:
    resume.main(line, runs, key, kills)


@main.command("train-many")
@click.argument("line", type=click.Choice(sorted(train_many.EPOCHS)))
@click.option("--nets", default=48, show_default=True)
@click.option("--workers", default=2, show_default=True)
def _train_many(line: str, nets: int, workers: int) -> None:
    train_many.main(line, nets, workers)


if __name__ == "__main__":
    main()
