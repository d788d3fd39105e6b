"""The command `factory add-feedback`: what operators corrected, for the next training."""

from pathlib import Path

import click

from factory.commands import command, emit, json_option, line_argument, say_next
from factory.progress import say


@click.command("add-feedback")
@line_argument
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@json_option
@command
def add_feedback(line: str, folder: Path, as_json: bool) -> None:
    """Add pictures that operators corrected, as `station feedback --out DIR` wrote them, to what LINE trains on."""
    from factory import feedback
    from factory.data.dataset import list_items
    from factory.profiles import load_line
    from factory.progress import ticker

    profile, root = load_line(line)
    with ticker("images", len(list_items(profile, root))) as tick:
        added = feedback.add_feedback(profile, root, folder, tick)
    skipped = [{"path": path, "reason": reason} for path, reason in added.skipped]
    if as_json:
        emit({"added": added.number, "folder": added.folder and str(added.folder), "skipped": skipped})
    else:
        for path, reason in added.skipped:
            say(f"skipped {path}: {reason}")
        where = f" in {added.folder}: trained on, never tested on" if added.folder else ""
        click.echo(f"{added.number} pictures added{where}")
    say_next(f"factory run {line}")
