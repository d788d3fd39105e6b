"""A teacher that the user brings as a file: a `torch.export` program (.pt2).

torch.export.load unpickles what a program stores beside its plain tensors (tensor subclasses, custom objects, files
of the older format), and example inputs that do not load as tensors alone. A file that would make it do so, or that
carries compiled code, is refused before, so that no pickle runs. That does not make a file harmless: a program calls
operators by name, and torch evaluates the expressions of its shapes. To load one is to run it: take it only from a
source you trust.
"""

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.runtime.errors import UsageError
from factory.profiles import InputSize
from factory.training.compute import Compute
from factory.training.teacher import Expert

HOW = "torch.export.save(torch.export.export(network.eval(), (x,), dynamic_shapes=({0: Dim('batch')},)), 'x.pt2')"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _pickled(archive: Any) -> list[str]:
    """Records of a .pt2 archive that torch.export.load would unpickle, or run as they are."""
    found = []
    for name in archive.get_file_names():
        payload = name.startswith(("data/weights/", "data/constants/"))
        if name.startswith("data/aotinductor/") or (payload and name.endswith(".pt")):
            found.append(name)
        elif payload and name.endswith(".json"):
            entries = json.loads(archive.read_string(name))["config"].values()
            plain = ("weight_", "tensor_")  # records of any other name are objects
            found += [e["path_name"] for e in entries if e["use_pickle"] or not e["path_name"].startswith(plain)]
        elif name.startswith("data/sample_inputs/"):
            torch.load(io.BytesIO(archive.read_bytes(name)), weights_only=True)  # raises unless it is plain tensors
    return found


def _loaded(path: Path) -> torch.nn.Module:
    """The program of a file, checked and loaded from the same bytes."""
    from torch.export.pt2_archive import PT2ArchiveReader

    try:
        data = path.read_bytes()
        with PT2ArchiveReader(io.BytesIO(data)) as archive:
            pickled = _pickled(archive)
        program = None if pickled else torch.export.load(io.BytesIO(data)).module()
    except Exception as error:  # whatever a reader of archives, JSON, shapes and operators may raise on a foreign file
        raise UsageError(
            f"the teacher {path} is not a torch.export program that loads without unpickling",
            found=_first_line(error),
            fix=f"Write it by {HOW}",
        ) from None
    if program is None:
        raise UsageError(
            f"the teacher {path} holds pickles or compiled code, which are not run",
            expected="plain tensors and a program",
            found=", ".join(pickled[:3]),
            fix=f"Write it by {HOW}",
        )
    return program


def _check(path: Path, program: torch.nn.Module, picture: InputSize, classes: int, compute: Compute) -> None:
    """Ask the program about three black pictures, and refuse it unless it answers with three rows of logits."""
    tried: object = None
    try:
        with torch.no_grad():
            tried = program(torch.zeros(3, picture.channels, picture.height, picture.width, device=compute.device))
        found = f"{tuple(tried.shape)}" if isinstance(tried, Tensor) else f"a {type(tried).__name__}"
    except Exception as error:  # a program may fail in any way on a shape it was not made for
        found = _first_line(error)
    if not isinstance(tried, Tensor) or tuple(tried.shape) != (3, classes):
        raise UsageError(
            f"the teacher {path} does not answer as it must",
            expected=f"(3, {classes}) logits of three pictures {picture.channels} x {picture.height} x {picture.width}",
            found=found,
            fix=f"Write it by {HOW}",
        )


def opened(path: Path, picture: InputSize, classes: int, compute: Compute) -> Expert:
    """Open a program as a teacher.

    It takes pictures float32 (N, C, H, W) in [0, 1], C, H, W those of `picture` and any N, normalises them itself,
    and returns logits (N, K) of the line's classes in the line's order; it was exported in evaluation mode.

    Raises:
        UsageError: if the file is no such program, holds a pickle, or answers in another shape.
    """
    program = _loaded(path).to(compute.device)

    def logits(x: Tensor) -> Tensor:
        return program(x).float()  # type: ignore[no-any-return]

    _check(path, program, picture, classes, compute)
    return logits
