"""Each named method against an implementation of its own paper, on the same masks: outputs and gradients."""

import pytest
import torch
from torch import Tensor, nn

from factory.swapout.layer import joins, sample_with
from factory.swapout.schedule import Noise, Schedule

P = 0.625
KEEP = Schedule.constant(P)


def branch() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1)).double()


def drawn(noise: Noise) -> tuple[Tensor, Tensor]:
    """The masks T1 and T2 that a layer draws from seed 7: X = 1 and F(X) = 2 tell the four outcomes."""
    (layer,) = joins(noise, (0,))
    sample_with(layer, torch.Generator().manual_seed(7))
    one = torch.ones(6, 4, 5, 5, dtype=torch.float64)
    y: Tensor = layer(one, 2 * one)
    return y % 2, y // 2


def feed_forward(x: Tensor, f: nn.Module, t1: Tensor, t2: Tensor) -> Tensor:
    out: Tensor = f(x)
    return out


def residual(x: Tensor, f: nn.Module, t1: Tensor, t2: Tensor) -> Tensor:
    return x + f(x)


def dropout(x: Tensor, f: nn.Module, t1: Tensor, t2: Tensor) -> Tensor:
    """torch's own backward of dropout on the block's output, with the drawn mask; torch inverts, so times p."""
    return torch.ops.aten.native_dropout_backward(x + f(x), t1.bool(), 1 / P) * P  # type: ignore[no-any-return]


def stochastic_depth(x: Tensor, f: nn.Module, t1: Tensor, t2: Tensor) -> Tensor:
    """Huang et al. 2016, equation 2: H_l = b_l f_l(H_(l-1)) + id(H_(l-1)); a dropped layer is not even computed."""
    rows = []
    for one, b in zip(x, t2[:, 0, 0, 0], strict=True):
        rows.append(one + f(one[None])[0] if b else one)
    return torch.stack(rows)


def skip_forward(x: Tensor, f: nn.Module, t1: Tensor, t2: Tensor) -> Tensor:
    return torch.where(t1.bool(), x, f(x))


def swapout(x: Tensor, f: nn.Module, t1: Tensor, t2: Tensor) -> Tensor:
    return t1 * x + t2 * f(x)


CASES = [
    (Noise.feed_forward(), feed_forward),
    (Noise.plain(), residual),
    *((Noise.dropout(KEEP, per), dropout) for per in ("unit", "channel", "sample", "layer")),
    *((Noise.stochastic_depth(KEEP, per), stochastic_depth) for per in ("sample", "layer")),
    *((Noise.skip_forward(KEEP, per), skip_forward) for per in ("unit", "channel", "sample", "layer")),
    *((Noise.swapout(KEEP, Schedule.constant(0.25), per), swapout) for per in ("unit", "channel", "sample", "layer")),
]


@pytest.mark.parametrize(("noise", "reference"), CASES, ids=lambda case: getattr(case, "method", ""))
def test_a_method_is_the_one_of_its_paper(noise: Noise, reference: object) -> None:
    t1, t2 = drawn(noise)
    f = branch()
    found, wanted = [], []
    for results, own in ((found, True), (wanted, False)):
        x = torch.randn(6, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        f.zero_grad()
        if own:
            (layer,) = joins(noise, (0,))
            sample_with(layer, torch.Generator().manual_seed(7))
            y = layer(x, f(x))
        else:
            y = reference(x, f, t1, t2)  # type: ignore[operator]
        (y**3).sum().backward()
        results += [y, x.grad, *(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in f.parameters())]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("noise", "reference"), CASES, ids=lambda case: getattr(case, "method", ""))
def test_the_masks_hang_together_as_the_method_says(noise: Noise, reference: object) -> None:
    t1, t2 = drawn(noise)
    match noise.method:
        case "dropout":
            assert torch.equal(t1, t2)
        case "skip-forward":
            assert torch.equal(t1, 1 - t2)
        case "stochastic-depth" | "plain":
            assert (t1 == 1).all()
        case "feed-forward":
            assert (t1 == 0).all() and (t2 == 1).all()
    if noise.per == "unit" and noise.method in {"dropout", "skip-forward", "swapout"}:
        assert 0 < t1.mean() < 1 and 0 < t2.mean() < 1
