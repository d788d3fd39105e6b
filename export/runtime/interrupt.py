"""Ctrl-C while TensorRT builds an engine: raised in what the library calls back, it would be swallowed there."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stoppable(trt: Any, config: Any) -> Iterator[None]:
    """Let Ctrl-C cancel a build with this builder's configuration, at its next step, and take effect behind it."""
    heard = threading.current_thread() is threading.main_thread()  # which alone gets signals
    if not heard or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    pressed: list[int] = []

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            pass

        def step_complete(self, name: str, step: int) -> bool:
            return not pressed

        def phase_finish(self, name: str) -> None:
            pass

    monitor = Monitor()
    config.progress_monitor = monitor
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)
