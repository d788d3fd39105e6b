from collections.abc import Callable

import numpy as np
import pytest
import torch

from factory.data.dataset import Dataset
from factory.profiles import Augmentation
from factory.training.feed import Feed
from factory.training.pictures import Standard, near
from factory.training.recipe import Recipe, seed_of

STILL = Augmentation(shift=0, brightness=0, contrast=0, noise=0)
AS_IS = Standard((0.0,), (1.0,))


@pytest.fixture
def feed_of(data_of: Callable[..., Dataset], recipe_of: Callable[..., Recipe]) -> Callable[..., Feed]:
    def build(train: int = 100, **changes: object) -> Feed:
        return Feed(data_of(train=train).train, AS_IS, recipe_of(**changes), "cpu")

    return build


def sides(feed: Feed, epoch: int) -> torch.Tensor:
    """Whether each image was mirrored in an epoch."""
    found = torch.zeros(len(feed.labels), dtype=torch.bool)
    for batch in feed.batches(epoch):
        x, _, rows = feed.serve(batch, epoch, torch.Generator().manual_seed(epoch))
        plain = feed.pictures[rows].permute(0, 3, 1, 2).float() / 255
        turned = (x == plain.flip(3)).flatten(1).all(1)
        assert torch.equal(turned, ~(x == plain).flatten(1).all(1))
        found[rows] = turned
    return found


def test_every_image_is_mirrored_in_every_second_epoch(feed_of: Callable[..., Feed]) -> None:
    flips = STILL.model_copy(update={"flip_horizontal": True})
    feed = feed_of(train=96, batch=16, augmentation=flips)
    first = sides(feed, 0)
    assert 25 < int(first.sum()) < 71
    assert torch.equal(sides(feed, 1), ~first)
    assert torch.equal(sides(feed, 2), first)
    assert not torch.equal(sides(feed_of(train=96, batch=16, augmentation=flips, seed=1), 0), first)
    assert not sides(feed_of(train=96, batch=16, augmentation=STILL), 0).any()


def test_an_epoch_shows_every_image_once_but_for_the_rest_of_a_batch(feed_of: Callable[..., Feed]) -> None:
    feed = feed_of(train=100, batch=16)
    batches = feed.batches(3)
    assert [len(rows) for rows in batches] == [16] * 6
    assert (feed.steps, feed.images) == (6, 96)
    assert len(set(torch.cat(batches).tolist())) == 96
    assert not torch.equal(batches[0], feed.batches(4)[0])
    assert all(torch.equal(a, b) for a, b in zip(batches, feed_of(train=100, batch=16).batches(3), strict=True))
    few = feed_of(train=10, batch=16)
    assert (few.steps, few.images, len(few.batches(0)[0])) == (1, 10, 10)


def test_labels_come_with_their_images(feed_of: Callable[..., Feed]) -> None:
    feed = feed_of(batch=16, augmentation=STILL)
    rows = torch.tensor([7, 3, 90])
    x, truth, same = feed.serve(rows, 0, torch.Generator())
    assert torch.equal(same, rows)
    assert torch.equal(truth, feed.labels[rows])
    assert torch.equal(x, feed.pictures[rows].permute(0, 3, 1, 2).float() / 255)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_images_that_take_more_than_half_of_a_gpu_stay_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device "meta" takes any tensor; its free memory is told here."""
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), np.uint8)
    for free, wanted in ((2 * images.nbytes, "meta"), (2 * images.nbytes - 1, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10**9))
        assert near(images, "meta").device.type == wanted
    assert np.array_equal(near(images, "meta"), images)
    assert np.array_equal(near(images, "cpu"), images)


def test_seeds_of_unlike_purposes_differ() -> None:
    paths = [("order", 0, 1), ("order", 1, 0), ("order", 0), ("mirror", 0), ("part", 0, 0, 0, 0), ("part", 0, 0, 0, 1)]
    seeds = [seed_of(*path) for path in paths]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**64 for seed in seeds)
    assert seeds == [seed_of(*path) for path in paths]
