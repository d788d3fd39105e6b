"""Checkpoints as safetensors: weights, momentum and progress in one file, replaced atomically; no pickle."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import SGD

from factory.workspace import write_atomic

History = list[dict[str, float | None]]


@dataclass(frozen=True, slots=True)
class Progress:
    """Epochs done, the history so far, and training images a second in the last epoch (0 where none was run yet)."""

    epoch: int
    history: History
    images_per_s: float = 0.0


@dataclass(slots=True)
class State:
    """All that changes in a training: the network, its average if there is one, momentum, the best weights so far."""

    network: nn.Module
    averaged: nn.Module | None
    optimiser: SGD
    best: dict[str, Tensor] = field(default_factory=dict)


def save_weights(path: Path, network: nn.Module, meta: dict[str, Any]) -> None:
    """Write the state of `network` with `meta` (JSON values) beside it."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    write_atomic(path, save(tensors, {"meta": json.dumps(meta)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and meta of a file written here."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return tensors, json.loads(file.metadata()["meta"])


def save_checkpoint(path: Path, state: State, history: History) -> None:
    """Write all that a training needs to go on after the epochs of `history`, a row each."""
    momentum = {str(index): own["momentum_buffer"] for index, own in state.optimiser.state_dict()["state"].items()}
    groups = {
        "network": state.network.state_dict(),
        "averaged": {} if state.averaged is None else state.averaged.state_dict(),
        "momentum": momentum,
        "best": state.best,
    }
    tensors = {
        f"{group}.{name}": tensor.detach().cpu().contiguous()
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    write_atomic(path, save(tensors, {"meta": json.dumps({"epoch": len(history), "history": history})}))


def restore(state: State, tensors: dict[str, Tensor], meta: dict[str, Any]) -> History:
    """Go back to what `save_checkpoint` wrote and `read_tensors` has read; returns the history."""

    def group(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(f"{prefix}."): t for n, t in tensors.items() if n.startswith(f"{prefix}.")}

    state.network.load_state_dict(group("network"))
    if state.averaged is not None:
        state.averaged.load_state_dict(group("averaged"))
    momentum = {int(index): {"momentum_buffer": tensor} for index, tensor in group("momentum").items()}
    state.optimiser.load_state_dict(state.optimiser.state_dict() | {"state": momentum})
    state.best = group("best")
    history: History = meta["history"]
    return history
