"""Libraries that talk to a user's terminal, or change the process, when they are used as libraries."""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let nothing inside print, warn or log, and leave the root logger and the import path as they were.

    The tools of onnxruntime print their progress, log by `logging.info`, which installs a handler in a process that has
    none, and append their own folder to the import path.
    """
    nobody, path, root = logging.NullHandler(), list(sys.path), logging.getLogger()
    root.addHandler(nobody)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(nobody)
        sys.path[:] = path
