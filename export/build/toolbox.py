"""The conversion tools of onnxruntime, which talk to the terminal and change the process they are imported into."""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Toolbox:
    """What is used of onnxruntime.transformers and onnxruntime.quantization; they have no types."""

    convert_float_to_float16: Any
    create_calibrator: Any
    CalibrationMethod: Any
    QuantType: Any
    QDQQuantizer: Any


@cache
def toolbox() -> Toolbox:
    """Import the tools, all at once: they append their folder to the import path, which is put back afterwards."""
    path = list(sys.path)
    try:
        with quiet():
            from onnxruntime.transformers.float16 import convert_float_to_float16  # isort: skip - makes the path
            from onnxruntime.quantization import QuantType
            from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator
            from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    finally:
        sys.path[:] = path
    return Toolbox(convert_float_to_float16, create_calibrator, CalibrationMethod, QuantType, QDQQuantizer)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let nothing inside print, warn or log.

    The tools print their progress, and log by `logging.info`, which in a process without a handler installs one.
    """
    nobody, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(nobody)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(nobody)
