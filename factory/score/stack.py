"""Several initialisations of one small network in one: the channels of R copies side by side, convolutions in groups.

The forward pass of a small network is almost all dispatch, so R passes in one cost little more than one. Feature maps
are (S, R * C, H, W) in channels-last layout, where the CPU's depthwise and grouped convolutions are fast.
"""

import math
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class UnscorableError(ValueError):
    """The network has a layer for which activation patterns, or a stack of copies, are not defined."""


class _Conv(nn.Module):
    def __init__(self, conv: nn.Conv2d, copies: int) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.groups = conv.groups * copies
        self.weight = Tensor()

    def load(self, weight: Tensor) -> None:
        self.weight = weight.flatten(0, 1).contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)


class _Norm(nn.Module):
    def __init__(self, norm: nn.BatchNorm2d, fresh: bool) -> None:
        super().__init__()
        self.eps, self.scale = norm.eps, 1 / math.sqrt(1 + norm.eps) if fresh else None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is not None:
            return x * self.scale
        return functional.batch_norm(x, None, None, training=True, eps=self.eps)


class _Linear(nn.Module):
    """(S, R * F) to (S, R * K)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = Tensor()

    def load(self, weight: Tensor) -> None:
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        copies, _, inputs = self.weight.shape
        return torch.einsum("srf,rkf->srk", x.view(len(x), copies, inputs), self.weight).flatten(1)


class Recorder(Protocol):
    """Watches what goes into every ReLU."""

    def record(self, x: Tensor) -> None:
        """See a tensor (S, R * C, H, W) or (S, N) for the first time."""

    def again(self, x: Tensor) -> None:
        """See a tensor that another ReLU has read before."""


class _ReLU(nn.Module):
    """Shows every tensor to `recorder` once: reading one map twice adds positions, never a pattern."""

    recorder: Recorder

    def forward(self, x: Tensor) -> Tensor:
        if getattr(x, "recorded", False):
            self.recorder.again(x)
        else:
            self.recorder.record(x)
            x.recorded = True  # type: ignore[attr-defined]
        return torch.relu(x)


_SMOOTH = (nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish, nn.ELU, nn.LeakyReLU, nn.PReLU, nn.Sigmoid, nn.Tanh, nn.Hardsigmoid)


def _stand_in(module: nn.Module, copies: int, fresh: bool) -> nn.Module | None:
    """What stands for `module` in the stack; None where it, or what it is made of, serves as it is."""
    if isinstance(module, _SMOOTH):
        name = type(module).__name__
        raise UnscorableError(f"{name} has no on and off, and SWAP-Score counts which ReLUs are on: use ReLU")
    if isinstance(module, nn.Conv2d):
        return _Conv(module, copies)
    if isinstance(module, nn.Linear):
        return _Linear()
    if isinstance(module, nn.BatchNorm2d):
        return _Norm(module, fresh)
    if isinstance(module, nn.ReLU):
        return _ReLU()
    if hasattr(module, "copies"):
        module.copies = copies  # type: ignore[assignment]
    return None


class Stack:
    """R copies of a network, each with weights of its own.

    Args:
        network: of convolutions, batch-norms, ReLUs, poolings, linear layers, sums, and layers with an attribute
            `copies`, which is set to R: those whose result depends on which channels belong together. It may lie on
            torch's meta device, as its weights are not used. It is consumed.
        copies: R.
        batch_norm: see `ScoreProtocol`.

    Raises:
        UnscorableError: if the network has a smooth activation.
    """

    def __init__(self, network: nn.Module, copies: int, batch_norm: Literal["batch", "fresh"]) -> None:
        self.copies = copies
        weighted = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        self._shapes = [layer.weight.shape for layer in weighted]
        self._layers: list[_Conv | _Linear] = []
        self._relus: list[_ReLU] = []
        whole = nn.ModuleDict({"network": network})
        for parent in list(whole.modules()):
            for name, child in list(parent._modules.items()):
                stand_in = None if child is None else _stand_in(child, copies, batch_norm == "fresh")
                if stand_in is not None:
                    parent.add_module(name, stand_in)
        self._network = whole["network"]
        for module in self._network.modules():
            if isinstance(module, _Conv | _Linear):
                self._layers.append(module)
            elif isinstance(module, _ReLU):
                self._relus.append(module)

    def draw(self, seeds: range, kaiming: bool, images: Tensor) -> None:
        """Draw the weights of copy r from seeds[r], in one vector that is cut into layers; as `images` in kind."""
        sizes = [shape.numel() for shape in self._shapes]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        flat = torch.stack([torch.randn(sum(sizes), generator=generator) for generator in generators])
        pieces = flat.to(images.device, images.dtype).split_with_sizes(sizes, 1)
        for layer, piece, shape in zip(self._layers, pieces, self._shapes, strict=True):
            scale = math.sqrt(2 / shape[1:].numel()) if kaiming else 1.0
            layer.load((piece * scale).view(-1, *shape))

    def __call__(self, images: Tensor, recorder: Recorder) -> Tensor:
        """Images (S, C, H, W) to logits (S, R, K)."""
        for relu in self._relus:
            relu.recorder = recorder
        logits = self._network(images.repeat(1, self.copies, 1, 1).contiguous(memory_format=torch.channels_last))
        return cast(Tensor, logits.view(len(logits), self.copies, -1))
