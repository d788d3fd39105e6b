"""Checkpoints as safetensors: weights, momentum and progress in one file, replaced atomically; no pickle."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import SGD

from factory.workspace import write_atomic


@dataclass(frozen=True, slots=True)
class Progress:
    """Epochs done and the history so far."""

    epoch: int
    history: list[dict[str, float | None]]


def save_weights(path: Path, network: nn.Module, meta: dict[str, Any]) -> None:
    """Write the state of `network` with `meta` (JSON values) beside it."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    write_atomic(path, save(tensors, {"meta": json.dumps(meta)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and meta of a file written here."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return tensors, json.loads(file.metadata()["meta"])


def save_checkpoint(path: Path, network: nn.Module, optimiser: SGD, progress: Progress) -> None:
    """Write all that a training needs to go on after `progress.epoch` epochs."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors[f"momentum.{index}"] = state["momentum_buffer"]
    meta = {"epoch": progress.epoch, "history": progress.history}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(contiguous, {"meta": json.dumps(meta)}))


def load_checkpoint(path: Path, network: nn.Module, optimiser: SGD) -> Progress:
    """Restore what `save_checkpoint` wrote."""
    tensors, meta = read_tensors(path)
    network.load_state_dict({n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")})
    state = optimiser.state_dict()
    state["state"] = {
        int(name.removeprefix("momentum.")): {"momentum_buffer": tensor}
        for name, tensor in tensors.items()
        if name.startswith("momentum.")
    }
    optimiser.load_state_dict(state)
    return Progress(meta["epoch"], meta["history"])
