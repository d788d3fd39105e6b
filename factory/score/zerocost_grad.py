"""Training-free metrics of the loss's gradient on one minibatch, and the weights that all metrics start from.

The conventions are those of Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021, section 3.2: the
saliency of every weight of convolutions and linear layers (no biases, no batch-norm), summed over the network; the
loss is the mean cross-entropy; batch-norm normalises by the minibatch. Their code keeps torch's own initial weights,
and so does this one. `factory.score.zerocost` says what all metrics share.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def weighted(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Convolutions and linear layers, in the network's own order."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def initialise(network: nn.Module, generator: torch.Generator, normal: bool = False) -> None:
    """Draw all weights anew, in place. The network then is in training mode and no ReLU overwrites its input.

    Args:
        network: whose parameters are those of convolutions, linear layers and batch-norms.
        generator: from which each layer in turn draws its weights, then its biases.
        normal: weights N(0, 1) and biases zero; otherwise torch's default, both uniform in +-1 / sqrt(fan-in).
    """
    network.train()
    for layer in weighted(network):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        for parameter in layer.parameters(recurse=False):
            if not normal:
                nn.init.uniform_(parameter, -bound, bound, generator)
            elif parameter is layer.weight:
                nn.init.normal_(parameter, generator=generator)
            else:
                nn.init.zeros_(parameter)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.ReLU):
            module.inplace = False  # the map before it is kept for its gradient


def finite(value: float | Tensor) -> float:
    """The value, or nan where it is infinite."""
    number = float(value)
    return number if math.isfinite(number) else math.nan


def _total(terms: Sequence[Tensor]) -> float:
    return finite(sum(float(term.double().sum()) for term in terms))


def _loss(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    initialise(network, torch.Generator().manual_seed(seed))
    return functional.cross_entropy(network(images), labels)


def _gradients(loss: Tensor, of: Sequence[Tensor], create_graph: bool = False) -> tuple[Tensor, ...]:
    """Gradient in each tensor; zeros where the loss does not depend on it."""
    return torch.autograd.grad(loss, of, create_graph=create_graph, allow_unused=True, materialize_grads=True)


def _saliencies(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> list[Tensor]:
    """w * dL/dw of every layer."""
    loss = _loss(network, images, labels, seed)
    weights = [layer.weight for layer in weighted(network)]
    return [w.detach() * g for w, g in zip(weights, _gradients(loss, weights), strict=True)]


def snip(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """SNIP (Lee et al., ICLR 2019, section 4): sum of |w * dL/dw|, not normalised."""
    return _total([saliency.abs() for saliency in _saliencies(network, images, labels, seed)])


def plain(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """Sum of w * dL/dw, with its sign.

    A layer that feeds batch-norm adds next to nothing, since its scale does not matter: the classifier's share remains.
    """
    return _total(_saliencies(network, images, labels, seed))


def grad_norm(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """Sum over the layers of the Euclidean norm of dL/dw."""
    loss = _loss(network, images, labels, seed)
    return _total([g.norm() for g in _gradients(loss, [layer.weight for layer in weighted(network)])])


def grasp(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """GraSP (Wang et al., ICLR 2020, section 4): sum of -w * (H g), H the Hessian of the loss, g its gradient.

    H g is the gradient of g' g with one of the two held fixed. Temperature 1, the whole minibatch at once.
    """
    loss = _loss(network, images, labels, seed)
    weights = [layer.weight for layer in weighted(network)]
    gradients = _gradients(loss, weights, create_graph=True)
    product = torch.stack([(g.detach() * g).sum() for g in gradients]).sum()
    return _total([-w.detach() * h for w, h in zip(weights, _gradients(product, weights), strict=True)])


def fisher(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """Fisher (Theis et al., 2018; Turner et al., "BlockSwap", ICLR 2020): saliency of output channels, summed.

    Of every channel that a convolution or linear layer puts out: activation times gradient, summed over the pixels,
    squared, averaged over the minibatch, halved. As in Abdelfattah's code a channel counts once for each weight of its
    filter.
    """
    outputs: list[Tensor] = []
    filters: list[int] = []

    def keep(layer: nn.Conv2d | nn.Linear, _inputs: object, output: Tensor) -> None:
        outputs.append(output)
        filters.append(layer.weight[0].numel())

    for layer in weighted(network):
        layer.register_forward_hook(keep)
    gradients = _gradients(_loss(network, images, labels, seed), outputs)
    terms = []
    for output, gradient, size in zip(outputs, gradients, filters, strict=True):
        channels = (output.detach() * gradient).reshape(*output.shape[:2], -1).sum(2)
        terms.append(size * channels**2 / (2 * len(images)))
    return _total(terms)
