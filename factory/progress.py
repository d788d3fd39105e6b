"""Progress on standard error: a bar with an estimate on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Update = Callable[[int, str], None]
LINE_EVERY_S = 10.0  # without a terminal


def say(text: str) -> None:
    """Print one line to standard error."""
    print(text, file=sys.stderr, flush=True)


def _plain(title: str, total: int) -> Update:
    start = last = time.monotonic()

    def update(done: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LINE_EVERY_S:
            return
        last = now
        left = f", about {(now - start) / done * (total - done):.0f} s left" if done else ""
        say(f"  {title}: {done}/{total}{left}{f'  {note}' if note else ''}")

    return update


@contextmanager
def bar(title: str, total: int) -> Iterator[Update]:
    """Show work of `total` steps; call the result with the number done and a short note."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(title, total)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total, note="")
        yield lambda done, note: progress.update(task, completed=done, note=note)


@contextmanager
def ticker(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Like `bar`, for work that only says "one more done"."""
    done = 0
    with bar(title, total) as update:

        def tick() -> None:
            nonlocal done
            done += 1
            update(done, "")

        yield tick
