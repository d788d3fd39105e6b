from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from factory.engine import Serial
from factory.evidence.ablation import Ablate, ablation, sides_for, standard_patterns
from factory.evidence.measures import protocol_for
from factory.evidence.pictures import load_pictures
from factory.search.scorer import Scorer
from factory.spaces.catalogue import SPACES
from factory.spaces.protocol import Size

SPACE = SPACES["nasbench201"]
SMALL = Size(2, 1, 10)
ARCHS = (
    "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|",
    "|skip_connect~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|",
    "|skip_connect~0|+|none~0|none~1|+|avg_pool_3x3~0|none~1|none~2|",
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|nor_conv_3x3~0|none~1|skip_connect~2|",
)


def scorer(side: int | None = None) -> Scorer:
    protocol = replace(protocol_for(SPACE, None).sized(2, 1), samples=8, repeats=2, image_size=side)
    return Scorer(SPACE, load_pictures(None, 8, 8, 0), 10, 3, protocol)


def by_definition(arch: str, images: torch.Tensor, seed: int) -> int:
    """Distinct vectors "is value v positive?" of the images, from hooks on an ordinary network."""
    network = SPACE.network(arch, SMALL).train()
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    flat = torch.randn(sum(layer.weight.numel() for layer in layers), generator=torch.Generator().manual_seed(seed))
    outputs: list[torch.Tensor] = []
    with torch.no_grad():
        for layer in layers:
            values, flat = flat.split([layer.weight.numel(), len(flat) - layer.weight.numel()])
            layer.weight.copy_(values.view_as(layer.weight))
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.flatten(1) > 0))
        network(images)
    return len({tuple(row) for row in torch.cat(outputs, 1).int().tolist()})


@pytest.mark.parametrize("arch", ARCHS)
def test_the_standard_count_is_that_of_the_definition(arch: str) -> None:
    # equal pictures among them, so that the count is not simply their number
    images = load_pictures(None, 6, 4, 0)[[0, 1, 1, 2, 3, 0]]
    wanted = [by_definition(arch, images, 3 * 1000 + repeat) for repeat in range(2)]
    assert standard_patterns(scorer(), arch, images) == sum(wanted) / 2
    assert max(wanted) <= 4


def test_every_input_size_has_its_row() -> None:
    images = load_pictures(None, 16, 8, 1)
    truth, factors = np.array([1.0, 3.0, 2.0, 4.0]), np.array([0.1, 1.0, 0.5, 0.2])
    ticks: list[int] = []
    rows = ablation(Ablate(scorer(), images, (4, 8)), ARCHS, factors, truth, Serial(), lambda: ticks.append(1))
    assert [row["image_size"] for row in rows] == [4, 8]
    assert len(ticks) == 4
    for row in rows:
        swaps = [scorer(row["image_size"])(arch) for arch in ARCHS]
        values = np.array([swap.swap for swap in swaps if swap is not None])
        assert row["n"] == len(values) == 4
        assert row["swap"] == pytest.approx(scipy.stats.spearmanr(values, truth).statistic)
        assert row["regularised"] == pytest.approx(scipy.stats.spearmanr(values * factors, truth).statistic)
    standard = [standard_patterns(scorer(8), arch, images) for arch in ARCHS]
    constant = len(set(standard)) == 1
    assert (rows[1]["standard"] is None) == constant


def test_sizes_that_reduce_to_nothing_are_left_out() -> None:
    assert sides_for("nasbench201") == sides_for("darts") == sides_for("nasbench101") == (4, 8, 16, 32)
    for name in ("residual", "transnas-micro", "transnas-macro"):
        assert sides_for(name) == (32,)
    for name in ("nasbench201", "darts", "nasbench101"):
        space = SPACES[name]
        protocol = replace(protocol_for(space, None), samples=8, repeats=1, image_size=4)
        own = Scorer(space, load_pictures(None, 8, 4, 0), 10, 0, protocol)
        score = own(space.sample(np.random.default_rng(4)))
        assert score is not None
        assert score.positions > 0
