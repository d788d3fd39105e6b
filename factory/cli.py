"""The command `factory`: each command parses, calls one stage, prints, and names the next command."""

import sys
from pathlib import Path

import click

import factory
from export.runtime.errors import EnvironmentLacks, GateError, UsageError
from factory.cli_audit import audit
from factory.cli_compare import compare
from factory.cli_feedback import add_feedback
from factory.cli_keys import keys
from factory.cli_measure import measure
from factory.cli_pilot import pilot
from factory.cli_scores import correlate, score
from factory.commands import (
    command,
    device_option,
    emit,
    engine_options,
    json_option,
    key_option,
    line_argument,
    open_run,
    open_runs,
    runs_option,
    say_next,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(factory.__version__, prog_name="factory")
def main() -> None:
    """From a product line's images to a small network that runs, proven, on the inspection station."""


@main.command()
@json_option
@command
def doctor(as_json: bool) -> None:
    """Say what this machine can do: torch, GPU, ONNX Runtime, TensorRT, clashes."""
    from factory.doctor import examine

    findings = examine()
    if as_json:
        emit([f.as_json() for f in findings])
    else:
        from factory.tables import show_findings

        show_findings(findings)
        say_next("factory init LINE --images DIR")
    if any(f.fatal for f in findings):
        sys.exit(EnvironmentLacks.exit_code)


@main.command()
@line_argument
@click.option("--images", required=True, type=click.Path(path_type=Path), help="Folder of class folders, or of a CSV.")
@click.option("--good", help="Class of good parts; without it the line sorts.")
@click.option("--device", default="cpu-x86", show_default=True, help="Station the budgets are for.")
@command
def init(line: str, images: Path, good: str | None, device: str) -> None:
    """Write profiles/lines/LINE.toml from a folder of images, its guesses explained."""
    from factory.newline import write_profile

    path = write_profile(line, images, good, device)
    click.echo(f"wrote {path}")
    say_next(f"read that file, then: factory check-data {line}")


@main.command("check-data")
@line_argument
@runs_option
@json_option
@command
def check_data(line: str, runs: Path, as_json: bool) -> None:
    """Report classes, sizes, unreadable files, duplicates and leaks between splits."""
    from factory.data.dataset import problems
    from factory.tables import show_data
    from factory.workspace import read_json

    run, *_ = open_runs(line, runs)
    with run.workspace.locked():
        check = read_json(run.data_stage.path / "check.json")
    found = problems(check)
    if as_json:
        emit(check | {"problems": found})
    else:
        show_data(check, found)
    if found:
        sys.exit(UsageError.exit_code)
    say_next(f"factory space {line}")


@main.command()
@line_argument
@click.option(
    "--compare",
    nargs=2,
    metavar="A B",
    help="Compare two restrictions, such as: all kinds=basic,mb+depths=1,2; and say which choices could be left out.",
)
@runs_option
@device_option
@json_option
@command
def space(line: str, compare: tuple[str, str] | None, runs: Path, device: str | None, as_json: bool) -> None:
    """Print what the space offers in every budgeted quantity, and whether the budgets can be met."""
    from factory.search.space import survey
    from factory.spaces.restriction import parse_restriction
    from factory.tables import show_space
    from factory.tables_evidence import show_comparison
    from factory.workspace import read_json

    run = open_run(line, runs, device=device)
    if compare:
        alternatives = [parse_restriction(text, run.line.space) for text in compare]
        with run.workspace.locked():
            folder = run.compare_stage(alternatives).path
        document = {"line": run.line.name, **read_json(folder / "compare.json")}
        if as_json:
            emit(document)
        else:
            show_comparison(document)
            click.echo(f"figure: {folder / 'compare.svg'}")
        say_next(f"factory search {line}")
        return
    with run.workspace.locked():
        report = survey(run.pricing)
    if as_json:
        emit(report.as_json())
    else:
        show_space(report)
    if not report.satisfiable:
        raise GateError("the budgets cannot be met", found=report.tightest(), fix="raise that budget in the profile")
    say_next(f"factory search {line}")


@main.command()
@line_argument
@runs_option
@device_option
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on from what is there, or search anew.")
@engine_options
@json_option
@command
def search(
    line: str, runs: Path, device: str | None, resume: bool, as_json: bool, engine: str, address: str | None
) -> None:
    """Score many networks without training, measure the best, and print the front."""
    from factory.tables import front_json, show_front

    works = open_runs(line, runs, engine, address, device)
    with works[0].workspace.locked():
        if not resume:
            works[0].workspace.anew.add("search")
        fronts = {work.device.name: (work.found, work.search_stage.seconds) for work in works}
    if as_json:
        documents = [front_json(name, *front) for name, front in fronts.items()]
        emit(documents[0] if len(works) == 1 else {"line": line, "stations": documents})
    else:
        for name, (found, seconds) in fronts.items():
            show_front(name, found, seconds)
    say_next(f"factory train {line}")


@main.command()
@line_argument
@runs_option
@device_option
@engine_options
@json_option
@command
def train(line: str, runs: Path, device: str | None, as_json: bool, engine: str, address: str | None) -> None:
    """Train the shortlist briefly, then its best network in full: plain, and with Swapout where the profile has it."""
    from factory.tables import show_shortlist

    run = open_run(line, runs, engine, address, device)
    with run.workspace.locked():
        entries = run.shortlist
        weights = {name: str(run.train_stage(run.best, way).path) for name, way in run.ways.items()}
    if as_json:
        rows = [
            {"genome": e.candidate.genome, "role": e.role, "latency_ms": e.latency_ms,
             "balanced_accuracy": e.val_balanced_accuracy, "val_loss": e.val_loss}
            for e in entries
        ]  # fmt: skip
        emit({"genome": run.best, "weights": weights, "shortlist": rows})
    else:
        show_shortlist(entries)
    say_next(f"factory collapse {line}")


@main.command()
@line_argument
@runs_option
@device_option
@json_option
@command
def collapse(line: str, runs: Path, device: str | None, as_json: bool) -> None:
    """Finish what was trained, collapse it to one plain network, and ask it in every mode."""
    from factory.tables import show_collapse, show_ways
    from factory.workspace import read_json

    run = open_run(line, runs, device=device)
    with run.workspace.locked():
        folders = {name: run.collapse_stage(run.best, way).path for name, way in run.ways.items()}
        modes = None if run.modes_stage is None else read_json(run.modes_stage.path / "modes.json")
    documents = {name: read_json(folder / "finish.json") for name, folder in folders.items()}
    if as_json:
        emit({"genome": run.best, "delivered": run.way, "finish": documents, "modes": modes})
    else:
        show_collapse(documents, run.way)
        if modes is not None:
            show_ways("noise: test images, with 95 % intervals", modes)
    say_next(f"factory export {line}")


@main.command()
@line_argument
@runs_option
@device_option
@json_option
@command
def export(line: str, runs: Path, device: str | None, as_json: bool) -> None:
    """Export ONNX in every precision and engines, and check on real images that they decide as the trained network."""
    from factory.tables import show_export

    run = open_run(line, runs, device=device)
    with run.workspace.locked():
        chosen = run.chosen
    document = {
        "model": str(chosen.export.path / "model.onnx"),
        "size_mb": len(chosen.model) / 1e6,
        **chosen.gate,
    }
    if as_json:
        emit(document)
    else:
        show_export(document)
    say_next(f"factory bench {line}")


@main.command()
@line_argument
@runs_option
@device_option
@json_option
@command
def bench(line: str, runs: Path, device: str | None, as_json: bool) -> None:
    """Time the network in every precision, and the plain reference, on the budget's device; recommend one."""
    from dataclasses import asdict

    from factory.tables import show_bench, show_options
    from factory.workspace import read_json

    run = open_run(line, runs, device=device)
    with run.workspace.locked():
        document = read_json(run.bench_stage.path / "bench.json")
        ways, budget = run.options, run.line.budget
    rows = [{"genome": g, **{k: v for k, v in row.items() if k != "samples_ms"}} for g, row in document.items()]
    if as_json:
        told = [asdict(way) for way in ways]
        emit({"device": run.device.name, **budget.model_dump(mode="json"), "rows": rows, "options": told})
    else:
        show_bench(rows, budget.latency_ms)
        show_options(ways, budget)
    if rows[0]["p50_ms"] > budget.latency_ms:
        raise GateError("the delivered network misses the latency budget", found=f"{rows[0]['p50_ms']:.3f} ms")
    say_next(f"factory pack {line}")


@main.command()
@line_argument
@runs_option
@device_option
@key_option
@json_option
@command
def pack(line: str, runs: Path, device: str | None, key: Path, as_json: bool) -> None:
    """Judge on the test images, and sign and pack the bundle if the network is accepted."""
    from factory.tables import show_outcome

    _require_key(key)
    run = open_run(line, runs, device=device)
    with run.workspace.locked():
        if run.results.missed and not as_json:
            show_outcome(run.results)
        bundle = run.pack_stage(key).path / "bundle"
    if as_json:
        emit({"bundle": str(bundle)})
    else:
        click.echo(f"bundle: {bundle}")
    say_next(f"station verify {bundle} --trust {key}.pub")


@main.command()
@line_argument
@runs_option
@device_option
@key_option
@engine_options
@json_option
@command
def run(line: str, runs: Path, device: str | None, key: Path, as_json: bool, engine: str, address: str | None) -> None:
    """Run every stage: from images to a signed bundle and a report. Complete stages are reused."""
    from factory.tables import show_kinds, show_outcome

    _require_key(key)
    works = open_runs(line, runs, engine, address, device)
    documents, missed = [], []
    for work in works:
        with work.workspace.locked():
            results = work.results
            bundle = None if results.missed else work.pack_stage(key).path / "bundle"
            report = work.report_stage(bundle).path / "report.html"
        documents.append(results.as_json(bundle, report))
        missed += [f"{work.device.name}: {phrase}" if len(works) > 1 else phrase for phrase in results.missed]
        if not as_json:
            show_outcome(results)
            click.echo(f"report: {report}")
            click.echo(f"bundle: {bundle or 'not packed, because a limit was missed'}")
    if as_json:
        kinds = [kind.as_json() for kind in works[0].results.kinds]
        emit(documents[0] if len(works) == 1 else {"line": line, "stations": documents, "kinds": kinds})
    elif works[0].results.kinds:
        show_kinds(works[0].results.kinds)
    if missed:
        raise GateError("the network is not accepted", found="; ".join(missed), fix=_advice(line))
    say_next(f"station verify {bundle} --trust {key}.pub")


@main.command()
@line_argument
@runs_option
@device_option
@key_option
@command
def report(line: str, runs: Path, device: str | None, key: Path) -> None:
    """Write the HTML page of a run and print where it is."""
    work = open_run(line, runs, device=device)
    with work.workspace.locked():
        packed = None if work.results.missed or not key.is_file() else work.pack_stage(key).path / "bundle"
        click.echo(work.report_stage(packed).path / "report.html")
    say_next("open that file in a browser")


def _require_key(key: Path) -> None:
    """Fail before the work, not behind it."""
    from export.runtime.keys import load_private

    if not key.is_file():
        raise UsageError(f"no signing key at {key}", fix="make one with: factory keys new, or name one with --key")
    load_private(key)


main.add_command(keys)
main.add_command(score)
main.add_command(correlate)
main.add_command(audit)
main.add_command(pilot)
main.add_command(compare)
main.add_command(measure)
main.add_command(add_feedback)


def _advice(line: str) -> str:
    return f"read the report, then change acceptance, budget or training in the profile of {line}, or add images"


if __name__ == "__main__":
    main()
