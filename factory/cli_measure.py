"""The command `factory measure`: latencies of networks on a device, here or by way of its station."""

import shlex
from pathlib import Path

import click

from export.runtime.errors import UsageError
from factory.commands import command, emit, json_option, key_option, runs_option, say_next


@click.command()
@click.argument("device")
@click.option(
    "--model", "models", multiple=True, type=click.Path(path_type=Path), help="An ONNX file to time; may be repeated."
)
@click.option("--line", help="Time what this line's search wants to know.")
@click.option(
    "--batch", "batches", multiple=True, default=(1,), show_default=True, type=click.IntRange(1, 4096),
    help="Frames a run of --model; may be repeated.",
)  # fmt: skip
@click.option(
    "--rhythm-ms", type=click.FloatRange(0, 1e6), default=100.0, show_default=True,
    help="The line sends a part every so many ms; 0 leaves the idle gaps out.",
)  # fmt: skip
@click.option("--kit", type=click.Path(path_type=Path), help="Write what the station has to measure to this folder.")
@click.option("--read", "carried", type=click.Path(path_type=Path), help="Take back the file that the station wrote.")
@click.option(
    "--trust", multiple=True, type=click.Path(path_type=Path), help="The station's public key (.pub), with --read."
)
@runs_option
@key_option
@json_option
@command
def measure(
    device: str,
    models: tuple[Path, ...],
    line: str | None,
    batches: tuple[int, ...],
    rhythm_ms: float,
    kit: Path | None,
    carried: Path | None,
    trust: tuple[Path, ...],
    runs: Path,
    key: Path,
    as_json: bool,
) -> None:
    """Measure latencies as DEVICE says: on this machine, or by a signed kit at its station."""
    asked = [name for name, given in (("--model", models), ("--kit", kit), ("--read", carried)) if given]
    if len(asked) > 1 or (models and line) or not (asked or line):
        raise UsageError(
            "say one thing to measure",
            expected="--model FILE, --line LINE, --kit DIR (with --line or without) or --read FILE",
            found=" and ".join([*asked, *(["--line"] if line else [])]) or "nothing",
            fix="factory measure DEVICE --model FILE.onnx",
        )
    if carried is not None:
        _read(device, line, carried, trust, runs, as_json)
    elif kit is not None:
        _pack(device, line, kit, runs, key, as_json)
    elif models:
        _files(device, models, batches, rhythm_ms, runs, as_json)
    else:
        _line(device, str(line), runs, as_json)


def _files(
    name: str, paths: tuple[Path, ...], batches: tuple[int, ...], every_ms: float, runs: Path, as_json: bool
) -> None:
    from factory.cost.book import is_away
    from factory.measuring import carried_models, lines, read_model, time_models, turns
    from factory.profiles import load_device
    from factory.progress import ticker

    device, models = load_device(name), [read_model(path) for path in paths]
    if is_away(device):
        document = carried_models(device, models, runs)
    else:
        with ticker("measure", turns(len(models), len(batches), every_ms)) as tick:
            document = time_models(device, models, batches, every_ms, tick)
    if as_json:
        emit(document)
    else:
        click.echo("\n".join(lines(document)))
    say_next(f"factory measure {name} --line LINE")


def _line(name: str, line: str, runs: Path, as_json: bool) -> None:
    from factory.measuring import line_latencies, lines

    document = line_latencies(name, line, runs)
    if as_json:
        emit(document)
    else:
        click.echo("\n".join(lines(document)))
    say_next(f"factory search {line}")


def _pack(name: str, line: str | None, folder: Path, runs: Path, key: Path, as_json: bool) -> None:
    from factory.measuring import pack_kit

    kit = pack_kit(name, line, runs, key, folder)
    networks, size = len(kit.contents), sum(map(len, kit.contents.values()))
    if as_json:
        emit({"kit": str(folder), "id": kit.id, "networks": networks, "bytes": size})
    else:
        click.echo(f"kit {kit.id}: {networks} networks, {size / 1e6:.1f} MB, in {folder}")
    say_next(f"carry that folder to the station; there: station measure {folder.name} --out {name}.measured")


def _read(name: str, line: str | None, path: Path, trust: tuple[Path, ...], runs: Path, as_json: bool) -> None:
    from factory.measuring import take_back

    if not trust:
        raise UsageError(
            "whose signature is to be trusted?",
            expected="the station's public key",
            found="no --trust",
            fix=f"factory measure {name} --read {shlex.quote(str(path))} --trust station.key.pub",
        )
    found, place, fresh = take_back(name, line, path, trust, runs)
    noisy = sum(result.latency.noisy for result in found.results)
    if as_json:
        emit({"file": str(place), "kit": found.kit, "networks": len(found.results), "new": fresh, "noisy": noisy})
    else:
        click.echo(f"kit {found.kit}: {len(found.results)} networks measured on {found.identity['processor']}")
        click.echo(f"{noisy} of them unsteadily (coefficient of variation above the limit); {fresh} are new in {place}")
    say_next(f"factory search {line or 'LINE'}")
