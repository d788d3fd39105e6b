from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from factory.data.dataset import Dataset
from factory.swapout.network import Network
from factory.training.compute import Compute
from factory.training.pictures import Standard, predict, standard, to_device

Fresh = Callable[..., Network]
DataOf = Callable[..., Dataset]
EXACT = Compute("cpu", "float32", 1)


def test_the_standard_is_mean_and_spread_of_each_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 5, 7, 3), np.uint8)
    images[..., 2] = 40
    found, pixels = standard(images), images / 255
    assert found.mean == pytest.approx([pixels[..., c].mean() for c in range(3)])
    assert found.std[:2] == pytest.approx([pixels[..., c].std() for c in range(2)])
    assert found.std[2] == 1e-3  # a channel that never changes is not divided by zero
    normal = found.apply(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(3, dtype=normal.dtype), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal[:, :2].std((0, 2, 3), correction=0), torch.ones(2, dtype=normal.dtype))


def test_pictures_go_to_torch_without_a_copy_of_their_order() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 7, 3), np.uint8)
    x = to_device(images, "cpu")
    assert x.shape == (4, 3, 5, 7) and x.dtype == torch.uint8
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert all(x[n, c, h, w] == images[n, h, w, c] for n, c, h, w in ((0, 0, 0, 0), (3, 2, 4, 6), (1, 2, 3, 4)))


def test_predictions_are_of_the_expectation_in_the_order_of_the_images(fresh: Fresh, data_of: DataOf) -> None:
    network, data = fresh().train(), data_of(test=300)
    norm = Standard((0.3,), (0.2,))
    found = predict(network, data.test.images, norm, EXACT)
    assert found.shape == (300, 2) and found.dtype == np.float32
    x: Tensor = (torch.from_numpy(data.test.images).permute(0, 3, 1, 2) / 255 - 0.3) / 0.2
    with torch.no_grad():
        wanted = torch.cat([network(row[None]) for row in x[::37]])
    np.testing.assert_allclose(found[::37], wanted, rtol=1e-4, atol=1e-5)
