"""What the commands of `factory` share: errors in one line, options, output."""

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

from export.runtime.errors import EnvironmentLacks, FactoryError, UsageError
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
        say("stopped; complete work is kept, and the same command goes on from there")
        sys.exit(130)
    except (OSError, sqlite3.OperationalError) as error:
        name = getattr(error, "filename", None)
        say(f"error: {getattr(error, 'strerror', None) or error}{f': {name}' if name else ''}")
        say("expected a place that can be written, with space left; free some space or choose another --runs folder,")
        say("then give the same command again: complete stages are kept")
        sys.exit(EnvironmentLacks.exit_code)


@contextmanager
def _together() -> Iterator[bool]:
    """Join the processes that torchrun started, if it did; yields whether this one leads (`ranks.joined`)."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # torch takes long to import
        yield True
        return
    from factory.training import ranks

    with ranks.joined() as leader:
        yield leader


def command(function: F) -> F:
    """Give a command the common handling of errors, and of several processes: one does it, the others help to train.

    `torchrun --standalone --nproc-per-node 2 -m factory.cli run LINE` starts two, whose trainings have the results of
    one process with as many threads (torchrun sets OMP_NUM_THREADS to 1 unless it is set).
    """

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with _plain_errors(), _together() as leader:
            return function(*args, **kwargs) if leader else None

    return wrapped  # type: ignore[return-value]


line_argument = click.argument("line")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
runs_option = click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=lambda: Path(os.environ.get("FACTORY_RUNS", "runs")),
    help="Folder of all runs; else FACTORY_RUNS, else ./runs.",
)
device_option = click.option("--device", help="Kind of station, on a line with several.")
key_option = click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    default=lambda: default_key(),  # noqa: PLW0108 - defined below
    help="Signing key; else FACTORY_KEY, else signing.key in the user's configuration folder.",
)


def default_key() -> Path:
    """FACTORY_KEY, else signing.key in the user's configuration folder."""
    from platformdirs import user_config_path

    named = os.environ.get("FACTORY_KEY")
    return Path(named) if named else user_config_path("edge-model-factory") / "signing.key"


def engine_options(function: F) -> F:
    """Give a command the choice of who works."""
    name = click.option(
        "--engine",
        type=click.Choice(("processes", "serial", "ray")),
        default="processes",
        show_default=True,
        help="Who scores and trains: processes of this machine, this process alone, or a Ray cluster.",
    )
    address = click.option("--address", help="Ray cluster, as host:port or auto; without it a local one is started.")
    return name(address(function))


def open_run(
    line: str, runs: Path, engine: Any = "processes", address: str | None = None, device: str | None = None
) -> Any:
    """Load a line's profile and open its run for one kind of station.

    Raises:
        UsageError: as `open_runs`, and if the line has several kinds and none is named.
    """
    first, *others = open_runs(line, runs, engine, address, device)
    if others:
        raise UsageError(
            f"line {first.line.name!r} has several kinds of station",
            expected="one of " + ", ".join(first.line.devices),
            found="no --device",
            fix=f"give the command again with --device {first.device.name}, or another of them",
        )
    return first


def open_runs(
    line: str, runs: Path, engine: Any = "processes", address: str | None = None, device: str | None = None
) -> list[Any]:
    """Load a line's profile and open its run for every kind of station, or for `device` alone.

    Raises:
        UsageError: if the profile is wrong or has no such kind, or its batches cannot be shared among the processes
            (`ranks.own`).
    """
    from factory.engine import Workers
    from factory.pipeline import Run
    from factory.profiles import load_line
    from factory.training import ranks

    profile, root = load_line(line)
    ranks.own(profile.training.parts)
    devices = profile.devices if device is None else (device,)
    return [Run(profile.at(one), root, runs, Workers(engine, address)) for one in devices]


def emit(document: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(document, allow_nan=False))


def say_next(text: str) -> None:
    """Name the next command on standard error."""
    say(f"next: {text}")
