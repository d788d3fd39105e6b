"""Training-free metrics that SWAP-Score is compared with, named as the columns of the zc_*.csv tables.

Each is a pure function of network, minibatch and seed: `metric(network, images, labels, seed)` with images float32
(S, C, H, W), normalised, and labels int64 (S,). More is taken to be better.

- The network is consumed: its weights, its mode and its hooks are changed. Build a fresh one for each call.
- The weights are drawn anew from `seed` (`initialise`), torch's global generators stay untouched. All metrics take
  torch's default weights, as the code behind the tables does, but for Zen-Score, which asks for N(0, 1).
- One initialisation a call: the mean over seeds is the caller's.
- nan stands for a value that is not finite, as of networks whose output depends on nothing. Leave such rows out.

Parameters and FLOPs are of `factory.spaces.counting`.
"""

import math
from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn

from factory.score.zerocost_grad import finite, fisher, grad_norm, grasp, initialise, plain, snip, weighted

Metric: TypeAlias = Callable[[nn.Module, Tensor, Tensor, int], float]

ZEN_STEP: Final = 0.01  # the authors' mixup_gamma
CORRELATION_FLOOR: Final = 1e-5  # keeps the logarithms of jacov and EPE-NAS finite
MANY_CLASSES: Final = 100  # above, EPE-NAS compares the classes' scores instead of adding them


def nwot(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """NWOT (Mellor et al., "Neural Architecture Search without Training", ICML 2021, section 3): log |det K|.

    K[i, j] is the number of ReLU outputs, over the whole network, that images i and j put into the same state. Needs no
    labels. nan where K is singular, as it is where two images have the same code.
    """
    initialise(network, torch.Generator().manual_seed(seed))
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64)

    def agree(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        signs = (output > 0).flatten(1).float() * 2 - 1
        kernel.add_((signs @ signs.T).double() / 2 + signs.shape[1] / 2)

    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(agree)
    with torch.no_grad():
        network(images)
    v = torch.linalg.eigvalsh(kernel)
    singular = v[0] <= v[-1] * len(v) * torch.finfo(v.dtype).eps
    return math.nan if singular else finite(v.log().sum())


def _last_map(network: nn.Module, images: Tensor) -> tuple[Tensor, list[float]]:
    """Last map of more than one pixel, and the mean variance over its channels that each batch-norm divides by."""
    maps: list[Tensor] = []
    variances: list[float] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        maps[:] = [x for x in (*maps, *inputs, output) if x.ndim == 4 and x[0, 0].numel() > 1][-1:]
        if isinstance(module, nn.BatchNorm2d):
            variances.append(float(inputs[0].var((0, 2, 3), correction=0).mean()))

    leaves = [module for module in network.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(look) for leaf in leaves]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    if not maps:
        raise ValueError("Zen-Score needs a map of more than one pixel before the global pooling; the network has none")
    return maps[0], variances


def zen(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """Zen-Score (Lin et al., "Zen-NAS", ICCV 2021, Algorithm 1): how far a small step of the input moves the last map.

    log E|f(x) - f(x + 0.01 e)|_1 + the sum over batch-norm layers of log sqrt(mean variance over the channels), with x
    and e Gaussian in the shape of `images`, whose pixels do not matter, and f the last map before the global pooling.
    Variances are those of the minibatch, as in the paper; the authors' code takes running ones, still near their start.
    Residual links stay, as in that code; a batch-norm of constant maps scales nothing and is left out.

    Raises:
        ValueError: if no map of the network is larger than one pixel.
    """
    generator = torch.Generator().manual_seed(seed)
    initialise(network, generator, normal=True)
    x, e = (torch.randn(images.shape, generator=generator) for _ in range(2))
    before, variances = _last_map(network, x)
    after, _ = _last_map(network, x + ZEN_STEP * e)
    step = (after - before).abs().sum((1, 2, 3)).double().mean()
    return finite(step.log() + sum(math.log(variance) / 2 for variance in variances if variance > 0))


def synflow(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """SynFlow (Tanaka et al., NeurIPS 2020, equation 3): log of the sum of |w * dR/dw|.

    R is the sum of the logits of one image of ones, with all parameters replaced by their absolute values. In float64,
    with batch-norm as in a new network (mean 0, variance 1): it divides by the input's own size otherwise. Of `images`
    the shape alone matters.
    """
    initialise(network, torch.Generator().manual_seed(seed))
    network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    weights = [layer.weight for layer in weighted(network)]
    result = network(torch.ones(1, *images.shape[1:], dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(result, weights, allow_unused=True, materialize_grads=True)
    return finite(
        torch.stack([(w.detach() * g).abs().sum() for w, g in zip(weights, gradients, strict=True)]).sum().log()
    )


def l2_norm(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """Sum over convolutions and linear layers of the Euclidean norm of the initial weights. Needs no images."""
    initialise(network, torch.Generator().manual_seed(seed))
    return finite(sum(float(layer.weight.detach().double().norm()) for layer in weighted(network)))


def _jacobian(network: nn.Module, images: Tensor, seed: int) -> tuple[Tensor, int]:
    """Gradient of the sum of all logits in each image: float64 (S, C * H * W), and the number of logits of an image."""
    initialise(network, torch.Generator().manual_seed(seed))
    images = images.detach().clone().requires_grad_()
    logits: Tensor = network(images)
    return torch.autograd.grad(logits.sum(), images)[0].flatten(1).double(), logits.shape[1]


def jacov(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """Jacobian covariance (Mellor et al., arXiv 2006.04647v1; `jacob_cov` of Abdelfattah et al., section 3.2).

    -sum of log(v + k) + 1 / (v + k), v the eigenvalues of the correlations of the images' gradients, k = 1e-5.
    Needs no labels. nan where a gradient is constant.
    """
    correlations = torch.corrcoef(_jacobian(network, images, seed)[0])
    if not bool(correlations.isfinite().all()):
        return math.nan
    v = torch.linalg.eigvalsh(correlations) + CORRELATION_FLOOR
    return finite(-(v.log() + 1 / v).sum())


def epe_nas(network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """EPE-NAS (Lopes et al., ICANN 2021, section 3): how alike the gradients of images of one class are.

    A class's score is the sum of log(|c| + 1e-5) over all correlations c of its images' gradients. Up to 100 classes,
    the metric is the sum of their absolute values. Above, a score is divided by the class's images, single images
    are left out, and the metric is the mean over classes of the summed differences from all classes.
    """
    gradients, classes = _jacobian(network, images, seed)
    many = classes > MANY_CLASSES
    scores = []
    for label in sorted(set(labels.tolist())):
        own = gradients[labels == label]
        if len(own) > 1 or not many:
            logarithms = (torch.corrcoef(own).abs() + CORRELATION_FLOOR).log()
            scores.append(logarithms.sum() / (len(own) if many else 1))
    if not scores:
        return math.nan
    score = torch.stack(scores)
    return finite((score[:, None] - score).abs().sum() / len(score) if many else score.abs().sum())


METRICS: Final[dict[str, Metric]] = {
    "nwot": nwot,
    "zen": zen,
    "synflow": synflow,
    "snip": snip,
    "grasp": grasp,
    "fisher": fisher,
    "jacov": jacov,
    "grad_norm": grad_norm,
    "plain": plain,
    "l2_norm": l2_norm,
    "epe_nas": epe_nas,
}
