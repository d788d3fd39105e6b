"""Every metric against another way to compute it, in float64, from weights drawn by torch's own layers."""

import csv
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev
from torch.nn import functional

from factory.score.zerocost import METRICS, Metric, epe_nas, jacov, l2_norm, nwot, synflow, zen
from factory.score.zerocost_grad import fisher, grad_norm, grasp, plain, snip
from factory.spaces.nasbench201 import NasBench201

SEED = 5
CLASSES = 4


class Residual(nn.Module):
    """Two convolutions beside a link, and a convolution that leads nowhere."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace), nn.Conv2d(3, 3, 1, bias=False)
        )
        self.norm, self.relu, self.unused = nn.BatchNorm2d(3), nn.ReLU(inplace), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        activated: Tensor = self.relu(self.norm(self.body(x)) + x)
        return activated


class Head(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


def residual(classes: int = CLASSES, inplace: bool = False) -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, bias=False), nn.BatchNorm2d(3))
    return nn.Sequential(stem, Residual(inplace), Head(3, classes))


def straight(classes: int = CLASSES, inplace: bool = False) -> nn.Module:
    """Without batch-norm."""
    convs = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(inplace))
    return nn.Sequential(
        convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, classes)
    )


NETWORKS = pytest.mark.parametrize("build", [residual, straight])


def batch() -> tuple[Tensor, Tensor]:
    images = torch.randn(10, 2, 7, 7, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(10) % CLASSES


def started(network: nn.Module) -> nn.Module:
    """The network as torch's own layers start it."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    return network


def weights(network: nn.Module) -> dict[str, Tensor]:
    """Weights of convolutions and linear layers by name."""
    layers = {name: each for name, each in network.named_modules() if isinstance(each, nn.Conv2d | nn.Linear)}
    return {f"{name}.weight": layer.weight.detach() for name, layer in layers.items()}


def loss_of(network: nn.Module) -> Callable[[dict[str, Tensor]], Tensor]:
    images, labels = batch()

    def loss(changed: dict[str, Tensor]) -> Tensor:
        logarithms = functional_call(network, changed, images.double()).log_softmax(1)
        loss: Tensor = -logarithms[torch.arange(len(labels)), labels].mean()
        return loss

    return loss


def slopes(network: nn.Module) -> dict[str, Tensor]:
    """Gradient of the loss in each weight by central differences."""
    start, loss, step = weights(network), loss_of(network), 1e-6
    found = {name: torch.zeros_like(weight) for name, weight in start.items()}
    for name, weight in start.items():
        for index in itertools.product(*map(range, weight.shape)):
            nudge = torch.zeros_like(weight)
            nudge[index] = step
            ahead, behind = (loss(start | {name: weight + sign * nudge}) for sign in (1, -1))
            found[name][index] = (ahead - behind) / (2 * step)
    return found


@NETWORKS
def test_snip_plain_and_the_gradient_norm_by_finite_differences(build: Callable[[], nn.Module]) -> None:
    network = started(build()).double()
    with torch.no_grad():
        slope, start = slopes(network), weights(network)
    saliency = torch.cat([(start[name] * slope[name]).flatten() for name in start])
    assert snip(build(), *batch(), SEED) == pytest.approx(float(saliency.abs().sum()), rel=1e-4)
    assert plain(build(), *batch(), SEED) == pytest.approx(float(saliency.sum()), rel=1e-3, abs=1e-6)
    norm = sum(math.sqrt(float((each**2).sum())) for each in slope.values())
    assert grad_norm(build(), *batch(), SEED) == pytest.approx(norm, rel=1e-4)


@NETWORKS
def test_grasp_by_the_slope_of_the_gradient_along_itself(build: Callable[[], nn.Module]) -> None:
    network = started(build()).double()
    start, slope, step = weights(network), grad(loss_of(network)), 1e-6
    along = slope(start)
    ahead, behind = (slope({name: start[name] + sign * along[name] for name in start}) for sign in (step, -step))
    changes = [start[name] * (ahead[name] - behind[name]) / (2 * step) for name in start]
    wanted = -sum(float(change.detach().sum()) for change in changes)
    assert grasp(build(), *batch(), SEED) == pytest.approx(wanted, rel=1e-3)


@NETWORKS
def test_fisher_by_a_factor_on_every_channel_of_every_image(build: Callable[[], nn.Module]) -> None:
    """d loss / d factor at 1 is what is squared: activation times gradient, summed over the pixels."""
    network = started(build()).double()
    images, labels = batch()
    factors: list[Tensor] = []

    sizes: list[int] = []

    def scale(layer: nn.Conv2d | nn.Linear, _inputs: object, output: Tensor) -> Tensor:
        sizes.append(layer.weight.numel() // len(layer.weight))
        factors.append(torch.ones(output.shape[:2], dtype=torch.float64, requires_grad=True))
        return output * factors[-1].reshape(*output.shape[:2], *[1] * (output.ndim - 2))

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(scale)
    loss = functional.cross_entropy(network(images.double()), labels)
    slope = torch.autograd.grad(loss, factors, allow_unused=True)
    found = [(size, each) for size, each in zip(sizes, slope, strict=True) if each is not None]
    wanted = sum(size * float((each**2).mean(0).sum()) / 2 for size, each in found)
    assert fisher(build(), images, labels, SEED) == pytest.approx(wanted, rel=1e-4)


@NETWORKS
def test_nwot_by_comparing_codes_bit_by_bit(build: Callable[[], nn.Module]) -> None:
    network = started(build())
    images, labels = batch()
    bits: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _m, _i, out: bits.append(out.reshape(len(out), -1) > 0))
    network(images)
    codes = torch.cat(bits, 1).tolist()
    kernel = [[sum(a == b for a, b in zip(one, other, strict=True)) for other in codes] for one in codes]
    assert nwot(build(), images, labels, SEED) == pytest.approx(np.log(np.linalg.det(kernel)), rel=1e-9)


def gradients_of_images(network: nn.Module) -> Tensor:
    """All logits of all images by all pixels, then the logits' sum: (S, C * H * W)."""
    images, _ = batch()
    jacobian = jacrev(network)(images.double())
    summed: Tensor = jacobian.sum((0, 1))
    return summed.detach().flatten(1)


@NETWORKS
def test_the_jacobian_covariance_by_the_whole_jacobian(build: Callable[[], nn.Module]) -> None:
    v = np.linalg.eigvals(np.corrcoef(gradients_of_images(started(build()).double()).numpy())).real
    wanted = -sum(math.log(each + 1e-5) + 1 / (each + 1e-5) for each in v)
    assert jacov(build(), *batch(), SEED) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("classes", [4, 100, 101])
def test_epe_nas_by_the_whole_jacobian_class_by_class(classes: int) -> None:
    def build() -> nn.Module:
        return residual(classes)

    images, labels = batch()
    labels[0] = classes - 1  # a class of one image
    gradients = gradients_of_images(started(build()).double()).numpy()
    scores = []
    for label in range(classes):
        own = [gradients[i] for i in range(len(labels)) if labels[i] == label]
        if len(own) > 1 or (own and classes <= 100):
            pairs = itertools.product(own, own)
            score = sum(math.log(abs(float(np.corrcoef(a, b)[0, 1])) + 1e-5) for a, b in pairs)
            scores.append(score if classes <= 100 else score / len(own))
    if classes <= 100:
        wanted = sum(abs(score) for score in scores)
    else:
        wanted = sum(abs(a - b) for a in scores for b in scores) / len(scores)
    assert len(scores) > 2
    assert epe_nas(build(), images, labels, SEED) == pytest.approx(wanted, rel=1e-4)


def test_synflow_by_every_path_from_pixel_to_logit() -> None:
    """The saliencies of one layer add up to all paths through it; a bias starts paths of its own."""

    def build() -> nn.Module:
        layers = {"conv": nn.Conv2d(1, 2, 2), "norm": nn.BatchNorm2d(2), "on": nn.ReLU(), "flat": nn.Flatten()}
        return nn.Sequential(OrderedDict(layers, hidden=nn.Linear(12, 3), again=nn.ReLU(), last=nn.Linear(3, 2)))

    drawn = {name: parameter.detach().abs() for name, parameter in started(build()).double().named_parameters()}
    kernel, bias, first, bias_1 = (drawn[name] for name in ("conv.weight", "conv.bias", "hidden.weight", "hidden.bias"))
    last = drawn["last.weight"]
    scale = 1 / math.sqrt(1 + 1e-5)
    paths = [0.0, 0.0, 0.0]  # through each layer's weights
    for hidden, logit in itertools.product(range(3), range(2)):
        paths[2] += float(bias_1[hidden] * last[logit, hidden])
        for channel, row, column in itertools.product(range(2), range(2), range(3)):
            rest = float(scale * first[hidden, channel * 6 + row * 3 + column] * last[logit, hidden])
            paths[1] += float(bias[channel]) * rest
            paths[2] += float(bias[channel]) * rest
            for weight in kernel[channel].flatten().tolist():
                paths = [path + weight * rest for path in paths]
    labels = torch.zeros(1, dtype=torch.int64)
    assert synflow(build(), torch.randn(1, 1, 3, 4), labels, SEED) == pytest.approx(math.log(sum(paths)), rel=1e-9)


@pytest.mark.parametrize("head", [nn.AdaptiveAvgPool2d(1), nn.Identity()], ids=["pooled by a layer", "by its parent"])
def test_the_zen_score_step_by_step(head: nn.Module) -> None:
    def build() -> nn.Module:
        body = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3))
        return nn.Sequential(body, nn.BatchNorm2d(3), head, Head(3, CLASSES))

    generator = torch.Generator().manual_seed(SEED)
    shapes = [(4, 2, 3, 3), (3, 4, 3, 3), (CLASSES, 3), (6, 2, 7, 7), (6, 2, 7, 7)]
    kernel, second, _, x, e = (torch.normal(0.0, 1.0, shape, generator=generator).double() for shape in shapes)

    def normed(maps: Tensor) -> tuple[Tensor, float]:
        channels = maps.transpose(0, 1).flatten(1)
        variance = channels.var(1, unbiased=False)
        centred = maps - channels.mean(1)[:, None, None]
        return centred / (variance + 1e-5).sqrt()[:, None, None], math.log(float(variance.mean())) / 2

    def last_map(images: Tensor) -> tuple[Tensor, float]:
        maps, scale = normed(functional.conv2d(images, kernel))
        maps, scale_2 = normed(functional.conv2d(maps.clamp(min=0), second))
        return maps, scale + scale_2

    (before, scales), (after, _) = last_map(x), last_map(x + 0.01 * e)
    wanted = math.log(float((before - after).abs().sum()) / 6) + scales
    assert zen(build(), torch.zeros(6, 2, 7, 7), torch.zeros(6, dtype=torch.int64), SEED) == pytest.approx(wanted)


def test_zen_leaves_a_batch_norm_of_constant_maps_out() -> None:
    class Dead(nn.Module):
        def __init__(self, dead: bool) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)
            self.dead, self.sum = nn.BatchNorm2d(2) if dead else nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            maps = self.norm(self.conv(x))
            logits: Tensor = self.sum(maps + self.dead(maps * 0)).mean((2, 3))
            return logits

    dead, alive = (zen(Dead(each), *batch(), SEED) for each in (True, False))
    assert dead == alive and math.isfinite(alive)


def test_zen_needs_a_map() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, CLASSES))
    with pytest.raises(ValueError, match="more than one pixel"):
        zen(network, torch.zeros(3, 2, 1, 1), torch.zeros(3, dtype=torch.int64), SEED)


@NETWORKS
def test_the_norm_of_the_weights_layer_by_layer(build: Callable[[], nn.Module]) -> None:
    wanted = sum(math.sqrt(sum(w * w for w in each.flatten().tolist())) for each in weights(started(build())).values())
    assert l2_norm(build(), *batch(), SEED) == pytest.approx(wanted)


ALL = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


@ALL
@NETWORKS
def test_a_metric_depends_on_its_arguments_alone(metric: Metric, build: Callable[..., nn.Module]) -> None:
    images, labels = batch()
    network = build()
    state = torch.get_rng_state()
    one = metric(network, images, labels, SEED)
    assert torch.equal(torch.get_rng_state(), state)
    assert math.isfinite(one)
    assert metric(build(inplace=True), images, labels, SEED) == one
    assert metric(build(), images, labels, SEED + 1) != one
    assert torch.equal(images, batch()[0]) and torch.equal(labels, batch()[1]) and not images.requires_grad


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def spoilt(factor: float) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), Times(factor), nn.ReLU(), Head(4, CLASSES))


@pytest.mark.parametrize("metric", [each for name, each in METRICS.items() if name != "l2_norm"])
def test_what_is_not_a_number_is_nan(metric: Metric) -> None:
    assert math.isnan(metric(spoilt(math.nan), *batch(), SEED))


@pytest.mark.parametrize("metric", [nwot, zen, synflow, jacov, epe_nas])
def test_a_network_that_sees_nothing_has_no_value(metric: Metric) -> None:
    assert math.isfinite(metric(spoilt(1.0), *batch(), SEED))
    assert math.isnan(metric(spoilt(0.0), *batch(), SEED))


def test_an_infinite_value_is_nan() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), Times(1e200), Times(1e200), nn.ReLU(), Head(4, CLASSES))
    assert math.isnan(synflow(network, *batch(), SEED))


SHARED = Path(__file__).parents[4] / "shared"


@pytest.mark.skipif(not (SHARED / "bench").exists(), reason="no benchmark tables beside the checkout")
def test_published_values_rank_cells_alike() -> None:
    """NASLib's values of NAS-Bench-201 on CIFAR-10, of other weights and other images."""
    with (SHARED / "bench" / "zc_nb201_dev.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == "cifar10"]
    assert set(METRICS) - set(rows[0]) == {"zen"}
    with np.load(SHARED / "data" / "cifar10" / "cifar10_lossless_subset.npz") as archive:
        pixels, labels = archive["x_train"][:16], torch.from_numpy(archive["y_train"][:16].astype(np.int64))
    images = torch.from_numpy((pixels / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2).copy())
    space = NasBench201()
    cells = [row for row in rows if space.connected(row["arch"])][:12]
    for name, alike in (("synflow", 0.98), ("l2_norm", 0.9), ("nwot", 0.95)):
        ours = [METRICS[name](space.network(row["arch"], space.full), images, labels, 0) for row in cells]
        assert scipy.stats.spearmanr(ours, [float(row[name]) for row in cells]).statistic > alike, name
