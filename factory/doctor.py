"""What this machine can do."""

import importlib.util
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import factory


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `fatal` if the factory cannot work as it was found."""

    subject: str
    ok: bool
    found: str
    fix: str = ""
    fatal: bool = False

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def _package(name: str, extra: str, fatal: bool) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, "not installed", f"pip install 'edge-model-factory[{extra}]'", fatal)


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("GPU", False, "unknown without torch")
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", False, "torch sees none", "not needed: training then runs on the CPU")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    together = f"to train on all: torchrun --standalone --nproc-per-node {len(names)} -m factory.cli run LINE"
    return Finding("GPU", True, ", ".join(names), together if len(names) > 1 else "")


def _onnxruntimes() -> Finding:
    """The two packages share one folder: the later install wins, and pip does not notice."""
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _package(name, "", False).ok]
    if len(both) == 2:
        fix = "pip uninstall onnxruntime onnxruntime-gpu, then install the one you want"
        return Finding("onnxruntime", False, "both onnxruntime and onnxruntime-gpu", fix, fatal=True)
    if not both:
        return Finding("onnxruntime", False, "not installed", "pip install 'edge-model-factory[cpu]'", fatal=True)
    import onnxruntime

    providers = ", ".join(p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers())
    return Finding("onnxruntime", True, f"{both[0]} {onnxruntime.__version__}: {providers}")


def _import_name() -> Finding:
    """The factory_boy package has the import name `factory` too."""
    try:
        version("factory_boy")
    except PackageNotFoundError:
        return Finding("import name 'factory'", True, str(Path(factory.__file__).parent))
    return Finding(
        "import name 'factory'",
        False,
        "factory_boy is installed beside it",
        "use an environment of its own",
        fatal=True,
    )


def _training() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("training", False, "unknown without torch")
    from factory.training import ranks
    from factory.training.compute import this_machine

    compute = this_machine()
    found = f"{compute.device}, {compute.dtype}, {compute.threads} threads, {ranks.size()} processes"
    return Finding("training", True, found)


def examine() -> list[Finding]:
    """Look at everything the factory stands on."""
    python = Finding("Python", sys.version_info >= (3, 11), platform.python_version(), "3.11 or newer is needed")
    return [
        python,
        _import_name(),
        _package("torch", "workstation", fatal=True),
        _gpu(),
        _training(),
        _package("onnx", "workstation", fatal=True),
        _onnxruntimes(),
        _package("tensorrt-rtx-cu13-bindings", "rtx", fatal=False),
        _package("tensorrt", "trt", fatal=False),
    ]
