from collections.abc import Callable

import numpy as np
import pytest
import torch

from export.runtime.decision import softmax
from factory.data.dataset import Dataset
from factory.swapout.collapse import collapse
from factory.swapout.layer import sample_with
from factory.swapout.network import Network
from factory.training.compute import Compute
from factory.training.inference import infer
from factory.training.pictures import predict, standard

Fresh = Callable[..., Network]
DataOf = Callable[..., Dataset]
EXACT = Compute("cpu", "float32", 1)


def sure(network: Network) -> Network:
    """Fresh weights make logits next to zero, on which all passes agree."""
    with torch.no_grad():
        network.head.weight.mul_(30)
    return network


def test_one_pass_is_the_expectation_and_the_collapsed_network_says_the_same(fresh: Fresh, data_of: DataOf) -> None:
    data, network = data_of(), fresh()
    norm = standard(data.train.images)
    sample_with(network, torch.Generator())  # left over from a training
    asked = infer(network, data.val.images, norm, EXACT)
    assert asked.disagreement is None
    np.testing.assert_array_equal(asked.logits, predict(network, data.val.images, norm, EXACT))
    collapsed = infer(collapse(network).float(), data.val.images, norm, EXACT)
    np.testing.assert_allclose(collapsed.logits, asked.logits, rtol=1e-4, atol=1e-5)


def test_many_passes_are_the_mean_of_their_probabilities(fresh: Fresh, data_of: DataOf) -> None:
    data, network = data_of(), sure(fresh())
    norm = standard(data.train.images)
    generator = torch.Generator().manual_seed(7)
    sample_with(network, generator)
    passes = np.array([softmax(predict(network, data.val.images, norm, EXACT)) for _ in range(5)])
    asked = infer(network, data.val.images, norm, EXACT, samples=5, seed=7)
    np.testing.assert_allclose(softmax(asked.logits), passes.mean(0), rtol=1e-5)
    # the disagreement is the mean divergence of a pass from the mean
    divergence = (passes * np.log(passes / passes.mean(0))).sum(2).mean(0)
    np.testing.assert_allclose(asked.disagreement, divergence, atol=1e-9)
    assert divergence.max() > 1e-4  # the passes do differ


def test_asking_leaves_the_network_in_expectation_mode_and_a_seed_tells_the_answer(
    fresh: Fresh, data_of: DataOf
) -> None:
    data, network = data_of(), fresh()
    norm = standard(data.train.images)
    before = infer(network, data.val.images, norm, EXACT).logits
    one, two, other = (infer(network, data.val.images, norm, EXACT, 3, seed).logits for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 1e-4
    np.testing.assert_array_equal(infer(network, data.val.images, norm, EXACT).logits, before)


def test_a_network_that_drops_nothing_agrees_with_itself(fresh: Fresh, data_of: DataOf) -> None:
    data, network = data_of(), fresh(swapout=False)
    norm = standard(data.train.images)
    asked = infer(network, data.val.images, norm, EXACT, samples=4)
    assert asked.disagreement == pytest.approx(np.zeros(len(data.val.labels)), abs=1e-12)
    plain = infer(network, data.val.images, norm, EXACT)
    np.testing.assert_allclose(softmax(asked.logits), softmax(plain.logits), rtol=1e-5)
