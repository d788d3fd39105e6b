"""The command `factory`: each command parses, calls one stage, prints, and names the next command."""

import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

import factory
from export.runtime.errors import EnvironmentLacks, FactoryError, GateError, UsageError
from factory.progress import say

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what a user can cause into one clear message and the right exit code."""
    try:
        yield
    except FactoryError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        sys.exit(130)
    except (OSError, sqlite3.OperationalError) as error:
        name = getattr(error, "filename", None)
        say(f"error: {getattr(error, 'strerror', None) or error}{f': {name}' if name else ''}")
        say("expected a place that can be written, with space left; free some space or choose another --runs folder,")
        say("then give the same command again: complete stages are kept")
        sys.exit(EnvironmentLacks.exit_code)


def command(function: F) -> F:
    """Give a command the common handling of errors."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with _plain_errors():
            return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


line_argument = click.argument("line")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
runs_option = click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=lambda: Path(os.environ.get("FACTORY_RUNS", "runs")),
    help="Folder of all runs; else FACTORY_RUNS, else ./runs.",
)
key_option = click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    default=lambda: _default_key(),  # noqa: PLW0108 - defined below
    help="Signing key; else FACTORY_KEY, else signing.key in the user's configuration folder.",
)


def _default_key() -> Path:
    from platformdirs import user_config_path

    named = os.environ.get("FACTORY_KEY")
    return Path(named) if named else user_config_path("edge-model-factory") / "signing.key"


def _open(line: str, runs: Path) -> Any:
    from factory.pipeline import Run
    from factory.profiles import load_line

    profile, root = load_line(line)
    return Run(profile, root, runs)


def _emit(document: Any) -> None:
    click.echo(json.dumps(document, allow_nan=False))


def _next(text: str) -> None:
    say(f"next: {text}")


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
        _emit([f.as_json() for f in findings])
    else:
        from factory.tables import show_findings

        show_findings(findings)
        _next("factory init LINE --images DIR")
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
    _next(f"read that file, then: factory check-data {line}")


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

    run = _open(line, runs)
    with run.workspace.locked():
        check = read_json(run.data_stage.path / "check.json")
    found = problems(check)
    if as_json:
        _emit(check | {"problems": found})
    else:
        show_data(check, found)
    if found:
        sys.exit(UsageError.exit_code)
    _next(f"factory space {line}")


@main.command()
@line_argument
@runs_option
@json_option
@command
def space(line: str, runs: Path, as_json: bool) -> None:
    """Print what the space offers in every budgeted quantity, and whether the budgets can be met."""
    from factory.search.space import survey
    from factory.tables import show_space

    run = _open(line, runs)
    with run.workspace.locked():
        report = survey(run.pricing)
    if as_json:
        _emit(report.as_json())
    else:
        show_space(report)
    if not report.satisfiable:
        raise GateError("the budgets cannot be met", found=report.tightest(), fix="raise that budget in the profile")
    _next(f"factory search {line}")


@main.command()
@line_argument
@runs_option
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on from what is there, or search anew.")
@json_option
@command
def search(line: str, runs: Path, resume: bool, as_json: bool) -> None:
    """Score many networks without training and print the front."""
    from dataclasses import asdict

    from factory.tables import show_front

    run = _open(line, runs)
    with run.workspace.locked():
        if not resume:
            run.workspace.anew.add("search")
        front, stage = run.front, run.search_stage
    if as_json:
        rows = [{k: v for k, v in asdict(c).items() if k not in {"swap", "macs"}} for c in front]
        _emit({"evaluated": len(run.candidates), "seconds": stage.seconds, "front": rows})
    else:
        show_front(front, run.candidates, stage.seconds)
    _next(f"factory train {line}")


@main.command()
@line_argument
@runs_option
@json_option
@command
def train(line: str, runs: Path, as_json: bool) -> None:
    """Train the shortlist briefly, then its best network in full, with Swapout."""
    from factory.tables import show_shortlist

    run = _open(line, runs)
    with run.workspace.locked():
        entries, stage = run.shortlist, run.train_stage(run.shortlist[0].candidate.genome)
    if as_json:
        rows = [
            {"genome": e.candidate.genome, "role": e.role, "latency_ms": e.latency_ms,
             "balanced_accuracy": e.val_balanced_accuracy, "val_loss": e.val_loss}
            for e in entries
        ]  # fmt: skip
        _emit({"genome": entries[0].candidate.genome, "weights": str(stage.path), "shortlist": rows})
    else:
        show_shortlist(entries)
    _next(f"factory collapse {line}")


@main.command()
@line_argument
@runs_option
@json_option
@command
def collapse(line: str, runs: Path, as_json: bool) -> None:
    """Re-estimate batch-norm in expectation mode and collapse to one plain network."""
    from factory.tables import show_collapse
    from factory.workspace import read_json

    run = _open(line, runs)
    with run.workspace.locked():
        stage = run.collapse_stage(run.shortlist[0].candidate.genome)
    document = read_json(stage.path / "finish.json")
    if as_json:
        _emit(document)
    else:
        show_collapse(document)
    _next(f"factory export {line}")


@main.command()
@line_argument
@runs_option
@json_option
@command
def export(line: str, runs: Path, as_json: bool) -> None:
    """Export ONNX and engines, and check on real images that they decide as the trained network."""
    from factory.tables import show_export

    run = _open(line, runs)
    with run.workspace.locked():
        chosen = run.chosen
    document = {
        "model": str(chosen.export.path / "model.onnx"),
        "size_mb": len(chosen.model) / 1e6,
        **chosen.gate,
    }
    if as_json:
        _emit(document)
    else:
        show_export(document)
    _next(f"factory bench {line}")


@main.command()
@line_argument
@runs_option
@json_option
@command
def bench(line: str, runs: Path, as_json: bool) -> None:
    """Time the delivered file and the plain reference on the budget's device."""
    from factory.tables import show_bench
    from factory.workspace import read_json

    run = _open(line, runs)
    with run.workspace.locked():
        document = read_json(run.bench_stage.path / "bench.json")
    rows = [{"genome": g, **{k: v for k, v in row.items() if k != "samples_ms"}} for g, row in document.items()]
    if as_json:
        _emit({"device": run.device.name, "latency_ms": run.line.budget.latency_ms, "rows": rows})
    else:
        show_bench(rows, run.line.budget.latency_ms)
    if rows[0]["p50_ms"] > run.line.budget.latency_ms:
        raise GateError("the delivered network misses the latency budget", found=f"{rows[0]['p50_ms']:.3f} ms")
    _next(f"factory pack {line}")


@main.command()
@line_argument
@runs_option
@key_option
@json_option
@command
def pack(line: str, runs: Path, key: Path, as_json: bool) -> None:
    """Judge on the test images, and sign and pack the bundle if the network is accepted."""
    from factory.tables import show_outcome

    _require_key(key)
    run = _open(line, runs)
    with run.workspace.locked():
        if run.results.missed and not as_json:
            show_outcome(run.results)
        bundle = run.pack_stage(key).path / "bundle"
    if as_json:
        _emit({"bundle": str(bundle)})
    else:
        click.echo(f"bundle: {bundle}")
    _next(f"station verify {bundle} --trust {key}.pub")


@main.command()
@line_argument
@runs_option
@key_option
@json_option
@command
def run(line: str, runs: Path, key: Path, as_json: bool) -> None:
    """Run every stage: from images to a signed bundle and a report. Complete stages are reused."""
    from factory.tables import show_outcome

    _require_key(key)
    work = _open(line, runs)
    with work.workspace.locked():
        results = work.results
        bundle = None if results.missed else work.pack_stage(key).path / "bundle"
        report = work.report_stage(bundle).path / "report.html"
    if as_json:
        _emit(results.as_json(bundle, report))
    else:
        show_outcome(results)
        click.echo(f"report: {report}")
        click.echo(f"bundle: {bundle or 'not packed, because a limit was missed'}")
    if results.missed:
        raise GateError("the network is not accepted", found="; ".join(results.missed), fix=_advice(line))
    _next(f"station verify {bundle} --trust {key}.pub")


@main.command()
@line_argument
@runs_option
@key_option
@command
def report(line: str, runs: Path, key: Path) -> None:
    """Write the HTML page of a run and print where it is."""
    work = _open(line, runs)
    with work.workspace.locked():
        packed = None if work.results.missed or not key.is_file() else work.pack_stage(key).path / "bundle"
        click.echo(work.report_stage(packed).path / "report.html")
    _next("open that file in a browser")


@main.group()
def keys() -> None:
    """Signing keys."""


@keys.command("new")
@click.argument("path", required=False, type=click.Path(dir_okay=False, path_type=Path))
@command
def keys_new(path: Path | None) -> None:
    """Make a key pair: PATH for the workstation, PATH.pub for the stations. Default: where `factory run` looks."""
    from export.runtime.keys import new_key

    place = path or _default_key()
    identity = new_key(place)
    click.echo(f"key {identity}: {place} (keep it secret), {place}.pub (give it to the stations)")
    _next("factory run LINE" if path is None else f"factory run LINE --key {place}")


def _require_key(key: Path) -> None:
    """Fail before the work, not behind it."""
    from export.runtime.keys import load_private

    if not key.is_file():
        raise UsageError(f"no signing key at {key}", fix="make one with: factory keys new, or name one with --key")
    load_private(key)


def _advice(line: str) -> str:
    return f"read the report, then change acceptance, budget or training in the profile of {line}, or add images"


if __name__ == "__main__":
    main()
