"""Networks that the factory did not build: Swapout put in, trained-looking statistics, collapse, the same outputs."""

import importlib.util
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from factory.swapout.collapse import check_collapsible, collapse, stream_scales
from factory.swapout.graph import NotCollapsible, trace
from factory.swapout.layer import Swapout, probabilities, sample_with
from factory.swapout.retrofit import swapout
from factory.swapout.schedule import Noise, Schedule

NOISE = Noise.swapout(Schedule.linear(1.0, 0.5), Schedule.linear(0.75, 0.25))


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.excite(functional.silu(self.squeeze(pooled))))


class PostAct(nn.Module):
    """He et al. 2015: relu(x + F(x)); works in place, as torchvision's does; perhaps a gate at the end of F."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: Callable[[], nn.Module], gated: bool) -> None:
        super().__init__()
        self.one, self.two = conv_norm(inputs, outputs, 3, stride), conv_norm(outputs, outputs, 3)
        self.gate = Gate(outputs) if gated else nn.Identity()
        same = inputs == outputs and stride == 1
        self.down = nn.Identity() if same else nn.Sequential(nn.AvgPool2d(stride), conv_norm(inputs, outputs, 1))
        self.act1, self.act2 = act(), act()

    def forward(self, x: Tensor) -> Tensor:
        out = self.gate(self.two(self.act1(self.one(x))))
        out += self.down(x)
        return self.act2(out)  # type: ignore[no-any-return]


class PreAct(nn.Module):
    """He et al. 2016: x + F(relu(norm(x))); a new shape by projection, or by pooling and channels of zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int, project: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.one = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.two = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.more, self.stride = outputs - inputs, stride
        self.project = nn.Conv2d(inputs, outputs, 1, stride) if project and self.more else None

    def forward(self, x: Tensor) -> Tensor:
        ready = functional.relu(self.norm1(x))
        skip = x if self.project is None else self.project(ready)
        if self.project is None and self.more:
            skip = functional.pad(functional.avg_pool2d(x, self.stride), (0, 0, 0, 0, 0, self.more))
        return torch.add(self.two(functional.relu(self.norm2(self.one(ready)))), skip)


class Inverted(nn.Module):
    """Sandler et al. 2018 with a gate: 1x1 up, depthwise, 1x1 down, nothing on the stream."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = 3 * inputs
        self.up, self.depth = conv_norm(inputs, middle, 1), conv_norm(middle, middle, 3, stride, middle)
        self.gate, self.down = Gate(middle), conv_norm(middle, outputs, 1)
        self.skips = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        out = functional.hardswish(self.depth(functional.hardswish(self.up(x))))
        out = self.down(self.gate(out))
        return out.add(x) if self.skips else out  # type: ignore[no-any-return]


def network(*blocks: nn.Module, width: int, last: nn.Module | None = None) -> nn.Sequential:
    stem = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    tail = [last or nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(width, 5)]
    return nn.Sequential(*stem, *blocks, *tail)


def post(act: Callable[[], nn.Module] = nn.ReLU, gated: bool = False) -> nn.Sequential:
    shapes = [(8, 8, 1), (8, 8, 1), (8, 12, 2), (12, 12, 1)]
    return network(*(PostAct(*shape, act, gated) for shape in shapes), width=12)


def pre(project: bool) -> nn.Sequential:
    shapes = [(8, 8, 1), (8, 8, 1), (8, 12, 2), (12, 12, 1)]
    last = nn.Sequential(nn.BatchNorm2d(12), nn.ReLU())
    return network(*(PreAct(*shape, project) for shape in shapes), width=12, last=last)


def inverted() -> nn.Sequential:
    shapes = [(8, 8, 1), (8, 8, 1), (8, 12, 2), (12, 12, 1), (12, 12, 1)]
    return network(*(Inverted(*shape) for shape in shapes), width=12)


def grouped() -> nn.Sequential:
    """Group-norm instead of batch-norm reads the stream of a pre-activation network."""
    found = pre(project=True)
    for block in found:
        if isinstance(block, PreAct):
            block.norm1 = nn.GroupNorm(2, block.norm1.num_features)  # type: ignore[assignment]
    return found


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "post-activation": (post, [0, 0, 1, 1]),
    "post-activation, leaky": (lambda: post(lambda: nn.LeakyReLU(0.1)), [0, 0, 1, 1]),
    "post-activation, gated": (lambda: post(gated=True), [0, 0, 1, 1]),
    "pre-activation, projection": (lambda: pre(project=True), [0, 0, 1, 1]),
    "pre-activation, zeros": (lambda: pre(project=False), [0, 0, 1, 1]),
    "inverted, gated": (inverted, [0, 0, 1, 1]),
    "group-norm": (grouped, [0, 0, 1, 1]),
}


@torch.no_grad()
def lived(found: nn.Module, side: int = 8) -> nn.Module:
    """Batch-norm weights and statistics as after a training, in float64."""
    torch.manual_seed(1)
    found = found.double()
    norms = [m for m in found.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    for norm in norms:
        norm.weight.copy_(torch.rand_like(norm.weight) + 0.5)
        norm.bias.copy_(torch.randn_like(norm.bias))
    found.train()(pictures(side))
    return found.eval()


def pictures(side: int = 8) -> Tensor:
    return torch.randn(4, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def off(found: nn.Module, wanted: nn.Module, side: int = 8) -> float:
    x = pictures(side)
    with torch.no_grad():
        expected = wanted(x)
        assert expected.std(0).max() > 1e-6 * expected.abs().max()  # the pictures have their say
        return float((found(x) - expected).abs().max() / expected.abs().max())


def operations(found: nn.Module) -> Counter[str]:
    """What torch exports, an operation of ATen each."""
    program = torch.export.export(found, (pictures(),))
    return Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_retrofitted_network_collapses_to_the_operations_it_had(name: str) -> None:
    torch.manual_seed(0)
    make, stages = NETWORKS[name]
    original = lived(make())
    found = swapout(original, NOISE)
    assert np.allclose(probabilities(found), NOISE.probabilities(stages), rtol=0, atol=1 / 512)
    assert found.state_dict().keys() == original.state_dict().keys()
    assert off(found, original) > 1e-3  # expectation mode is another network
    plain = collapse(found)
    assert off(plain, found) < 1e-10
    wanted = operations(original)
    wanted += Counter({"aten.add.Tensor": wanted.pop("aten.add_.Tensor", 0)})
    assert operations(plain) == +wanted


@pytest.mark.parametrize("name", NETWORKS)
def test_probabilities_may_differ_by_channel(name: str) -> None:
    torch.manual_seed(0)
    found = swapout(lived(NETWORKS[name][0]()), NOISE)
    for number in range(4):
        width = 8 if number < 2 else 12
        p1, p2 = (torch.linspace(low, 1, width).roll(number).tolist() for low in (0.3, 0.2))
        setattr(found, f"swapout_{number}", Swapout(p1, p2, "channel"))
    if name == "group-norm":
        with pytest.raises(NotCollapsible, match="a GroupNorm reads channels of different scale"):
            collapse(found)
    else:
        assert off(collapse(found), found) < 1e-10


def test_a_schedule_by_stage_and_every_method_fit_a_retrofit() -> None:
    by_stage = Noise.swapout(Schedule.per_stage((1.0, 0.5)))
    assert probabilities(swapout(post(), by_stage)) == [(1.0, 1.0)] * 2 + [(0.5, 0.5)] * 2
    assert stream_scales(swapout(post(), by_stage)) == [(1.0, 1.0), (0.5, 1.0)]
    keep = Schedule.constant(0.75)
    for noise in (
        Noise.plain(),
        Noise.feed_forward(),
        Noise.dropout(keep),
        Noise.stochastic_depth(keep),
        Noise.skip_forward(keep),
    ):
        original = lived(post())
        found = swapout(original, noise)
        assert off(collapse(found), found) < 1e-10
        if noise.silent:
            assert off(found, original) == 0


def test_a_retrofitted_network_trains_with_masks_and_leaves_the_original_alone() -> None:
    original = post().train()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    found = swapout(original, NOISE)
    assert found.training
    sample_with(found, torch.Generator().manual_seed(0))
    one, two = (found(pictures().float()) for _ in range(2))
    assert not torch.equal(one, two)
    one.sum().backward()
    assert all(p.grad is not None for p in found.parameters())
    sample_with(found, None)
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())


def test_an_activation_of_the_stream_that_does_not_scale_is_refused_before_any_training() -> None:
    with pytest.raises(NotCollapsible, match="SiLU does not pass on the scale of the stream it reads"):
        swapout(post(nn.SiLU), NOISE)
    kept = Noise.stochastic_depth(Schedule.constant(0.5))  # the stream is never dropped: nothing to pass on
    found = swapout(lived(post(nn.SiLU)), kept)
    assert off(collapse(found), found) < 1e-10


class Twice(nn.Module):
    """One layer reads the stream before and behind an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.one(x)
        return self.two(x + self.one(x))  # type: ignore[no-any-return]


class Standardised(nn.Conv2d):
    """A subclass whose output does not follow the scale of its weights."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.conv2d(input, self.weight / self.weight.std(), self.bias)


class Branch(nn.Module):
    """x + F(x), read by a convolution."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch, self.head = branch, nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.branch(x))  # type: ignore[no-any-return]


class Depends(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + functional.dropout(self.branch(x), 0.5, self.training))  # type: ignore[no-any-return]


class Tie(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(x) + self.two(x))  # type: ignore[no-any-return]


class Reciprocal(Branch):
    """What is divided by the stream has the inverse scale; not a thing to guess at."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(1 / (x + self.branch(x)))  # type: ignore[no-any-return]


def tied() -> nn.Module:
    found = Branch(nn.Conv2d(3, 3, 1))
    assert isinstance(found.branch, nn.Conv2d)
    found.branch.weight = found.head.weight
    return found


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "used twice": (Twice, "one"),
    "standardised weights": (lambda: Branch(Standardised(3, 3, 1)), "branch: a Standardised does not scale"),
    "parametrised weights": (
        lambda: Branch(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1))),
        "branch: a ParametrizedConv2d does not scale with its weights",
    ),
    "no weights at the end": (
        lambda: Branch(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid())),
        "adds two paths of different scale, and neither ends in weights of its own",
    ),
    "reciprocal": (lambda: Reciprocal(nn.Conv2d(3, 3, 1)), "truediv does not pass on the scale"),
    "shared weight": (tied, "share a weight, and the collapse would change one of them"),
    "no graph": (Depends, "Depends has no fixed graph"),
    "functional dropout": (Functional, "Functional has another graph in training: use layers such as nn.Dropout"),
    "tie": (Tie, "add adds two paths of 1 layers with weights: which is the skip?"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_collapse_exactly_is_refused_with_the_reason(name: str) -> None:
    make, said = REFUSED[name]
    with pytest.raises(NotCollapsible, match=re.escape(said)):
        swapout(make(), Noise.swapout(Schedule.constant(0.5), Schedule.constant(0.25)))


def test_a_network_without_an_addition_is_refused() -> None:
    with pytest.raises(ValueError, match="Sequential has no residual addition"):
        swapout(nn.Sequential(nn.Conv2d(3, 3, 1)), NOISE)


def test_the_check_needs_no_training_and_changes_nothing() -> None:
    found = swapout(post(), NOISE)
    before = {name: value.clone() for name, value in found.state_dict().items()}
    check_collapsible(found)
    assert all(torch.equal(value, before[name]) for name, value in found.state_dict().items())
    assert isinstance(found, fx.GraphModule)
    assert len(trace(found).joins) == 4


TIMM = ["resnet18", "resnet26d", "resnetv2_50", "mobilenetv2_050", "efficientnet_lite0", "seresnet18"]


@pytest.mark.parametrize("name", TIMM)
def test_networks_of_timm_collapse(name: str) -> None:
    for package in ("timm", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    from tests.benchmarks.peers import stock

    original = lived(stock(name, 3, 5), 32)
    found = swapout(original, NOISE)
    assert off(found, original, 32) > 1e-3
    assert off(collapse(found), found, 32) < 1e-10
