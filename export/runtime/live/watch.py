"""Every picture that a camera's driver puts into a folder gets its verdict, in the order of their arrival."""

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Final

from export.runtime.live.inbox import Arrival, Inbox
from export.runtime.live.inspector import Answer, Inspector
from export.runtime.settings import WatchSettings

LOOK_S: Final = 0.01  # between two looks into the folder


def watch(
    folder: Path,
    inspector: Inspector,
    settings: WatchSettings,
    *,
    remove: bool,
    tell: Callable[[Path, Answer, bool], None],
    say: Callable[[str], None],
    stop: Event,
) -> None:
    """Judge what arrives in ``folder`` until ``stop`` is set; ``tell`` gets each answer once it is on record,
    and whether it may have been told before.

    With ``remove`` a file is removed once its answer was told; else it stays, and is not judged again. A folder that
    is gone is waited for.
    """
    inbox = Inbox(folder, settings.settle_ms / 1000, settings.give_up_ms / 1000)
    gone = False
    while not stop.is_set():
        try:
            arrivals = list(inbox.arrivals())
            if gone:
                say(f"the folder {folder} is back")
            gone = False
        except OSError as error:
            if not gone:
                say(f"FAULT: no pictures come, the folder {folder} cannot be read: {error.strerror}")
            gone, arrivals = True, []
        for arrival in arrivals:
            if stop.is_set():
                return
            _take(arrival, inbox, inspector, remove, tell, say)
        inspector.poll()
        stop.wait(LOOK_S)


def _take(
    arrival: Arrival,
    inbox: Inbox,
    inspector: Inspector,
    remove: bool,
    tell: Callable[[Path, Answer, bool], None],
    say: Callable[[str], None],
) -> None:
    known = inspector.known(arrival.source)
    if known is None:
        answer = _judge(arrival, inspector)
        if answer is None:
            return
    else:
        answer = known
    # Of a file on record that should be gone nobody knows whether its verdict was told; others were, and stay.
    if known is None or remove:
        tell(arrival.path, answer, known is not None)
    inbox.done(arrival)
    if remove and not inspector.unrecorded:  # else a kill now would lose part and verdict; the next start judges it
        try:
            arrival.path.unlink(missing_ok=True)
        except OSError as error:
            say(f"{arrival.path} was judged but cannot be removed: {error.strerror}")


def _judge(arrival: Arrival, inspector: Inspector) -> Answer | None:
    """Return the answer on a file; None for one that is gone, or cannot be read and may not be whole yet."""
    part = arrival.path.stem
    try:
        picture = arrival.path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return inspector.unjudged(part, arrival.source, f"{arrival.path}: {error.strerror}") if arrival.waited else None
    if arrival.waited:
        return inspector.inspect(picture, part, arrival.source)
    return inspector.try_inspect(picture, part, arrival.source)
