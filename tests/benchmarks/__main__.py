"""`make bench`: the measured claims, or one of them by name."""

from pathlib import Path

import click

from factory.training.pretrained import Kind
from tests.benchmarks import (
    calibration,
    collapse_latency,
    darts_search,
    drift,
    engines,
    killed,
    kinds,
    modes,
    mutations,
    novelty,
    overhead,
    power,
    precision,
    prediction,
    probe,
    quality,
    regret,
    regulariser,
    repeatability,
    resume,
    score_speed,
    serve,
    soak,
    swapout_cost,
    teacher,
    train_many,
    transfer,
)

runs_option = click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)

key_option = click.option("--key", type=click.Path(path_type=Path), default=Path("data/demo.key"), show_default=True)


@click.group(invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Measured claims; without a name, those that need no finished run."""
    if context.invoked_subcommand is None:
        probe.main()
        prediction.main()
        calibration.main()
        score_speed.main()
        collapse_latency.main()
        swapout_cost.main()


main.command("collapse-latency")(collapse_latency.main)
main.command("engines")(engines.main)
main.command("kinds")(kinds.main)
main.command("power")(power.main)
main.command("novelty")(novelty.main)
main.command("probe")(probe.main)
main.command("prediction")(prediction.main)
main.command("calibration")(calibration.main)
main.command("score-speed")(score_speed.main)
main.command("swapout-cost")(swapout_cost.main)
main.command("transfer")(transfer.main)


@main.command("drift")
@click.option("--seeds", default=20, show_default=True, help="Streams for each drift.")
def _drift(seeds: int) -> None:
    drift.main(seeds)


@main.command("quality")
@click.argument("line", default="solar-cells")
@runs_option
@click.option("--lite-epochs", default=0, show_default=True, help="Epochs of the pretrained network; 0 leaves it out.")
def _quality(line: str, runs: Path, lite_epochs: int) -> None:
    quality.main(line, runs, lite_epochs)


@main.command("precision")
@click.argument("line", default="solar-cells")
@runs_option
def _precision(line: str, runs: Path) -> None:
    precision.main(line, runs)


@main.command("resume")
@click.argument("line", default="solar-cells")
@runs_option
@key_option
@click.option("--kills", default=10, show_default=True)
def _resume(line: str, runs: Path, key: Path, kills: int) -> None:
    resume.main(line, runs, key, kills)


@main.command("overhead")
@click.argument("line", default="solar-cells")
@runs_option
@key_option
def _overhead(line: str, runs: Path, key: Path) -> None:
    overhead.main(line, runs, key)


@main.command("killed")
@click.argument("line", default="solar-cells")
@runs_option
@key_option
@click.option("--kills", default=50, show_default=True)
def _killed(line: str, runs: Path, key: Path, kills: int) -> None:
    killed.main(line, runs, key, kills)


@main.command("soak")
@click.argument("line", default="solar-cells")
@runs_option
@key_option
@click.option("--parts", default=200_000, show_default=True)
@click.option("--way", "ways", type=click.Choice(["watch", "serve"]), multiple=True, default=("watch", "serve"))
def _soak(line: str, runs: Path, key: Path, parts: int, ways: tuple[str, ...]) -> None:
    soak.main(line, runs, key, parts, ways)


@main.command("repeatability")
@click.option("--processes", default=10, show_default=True, help="Independent runs of `factory measure`.")
def _repeatability(processes: int) -> None:
    repeatability.main(processes)


@main.command("mutations")
@click.option("--number", default=10_000, show_default=True)
def _mutations(number: int) -> None:
    mutations.main(number)


@main.command("modes")
@runs_option
@click.option("--seeds", default=3, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--data", "names", type=click.Choice(sorted(modes.EPOCHS)), multiple=True, help="Else all.")
def _modes(runs: Path, seeds: int, workers: int, names: tuple[str, ...]) -> None:
    modes.main(runs, seeds, workers, names)


@main.command("serve")
@click.argument("given", nargs=-1, type=click.Path(path_type=Path, exists=True), metavar="[BUNDLE PUBLIC_KEY PICTURE]")
def _serve(given: tuple[Path, ...]) -> None:
    serve.main(given)


@main.command("regret")
@runs_option
@click.option("--workers", default=2, show_default=True)
def _regret(runs: Path, workers: int) -> None:
    regret.main(runs, workers)


@main.command("regulariser")
@runs_option
@click.option("--workers", default=2, show_default=True)
@click.option("--number", default=1000, show_default=True, help="DARTS cells.")
def _regulariser(runs: Path, workers: int, number: int) -> None:
    regulariser.main(runs, workers, number)


@main.command("darts-search")
@click.option("--mu", default=1.5, show_default=True, help="mu = sigma, in thousands of parameters of the proxy.")
@click.option("--number", default=2000, show_default=True, help="Scores to spend.")
@click.option("--workers", default=2, show_default=True)
@click.option("--images", type=click.Path(path_type=Path), help="Real pictures; else synthetic ones.")
def _darts_search(mu: float, number: int, workers: int, images: Path | None) -> None:
    darts_search.main(mu, number, workers, images)


@main.command("teacher")
@click.argument("line", default="solar-cells")
@runs_option
@click.option("--side", default=0, help="Of the student's pictures, in pixels; 0 is the profile's.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--epochs", default=0, help="Of the student; 0 is the profile's.")
@click.option("--genome", default=teacher.STUDENT, show_default=True)
@click.option("--kind", type=click.Choice(["lite0", "lite1", "lite2"]), default="lite0", show_default=True)
@click.option("--teacher-side", default=0, help="0 is that of the stored pictures, from 96 to 128.")
@click.option("--teacher-epochs", default=8, show_default=True)
def _teacher(
    line: str, runs: Path, side: int, seeds: int, epochs: int, genome: str, kind: Kind, teacher_side: int,
    teacher_epochs: int,
) -> None:  # fmt: skip
    teacher.main(line, runs, side, seeds, epochs, genome, kind, teacher_side, teacher_epochs)


@main.command("train-many")
@click.argument("line", type=click.Choice(sorted(train_many.EPOCHS)))
@click.option("--nets", default=48, show_default=True)
@click.option("--workers", default=2, show_default=True)
def _train_many(line: str, nets: int, workers: int) -> None:
    train_many.main(line, nets, workers)


if __name__ == "__main__":
    main()
