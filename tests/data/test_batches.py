"""Batches: every image once, normalised as the formula says, the same for any rank, batch size and
repetition.
"""

from __future__ import annotations

import pytest
import torch

from circa_train.data.augmentation import Augmentation
from circa_train.data.batches import Batches
from circa_train.data.images import ImageSet

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
ALL = Augmentation(crop=2, flip=True, cutout=3)


def numbered(count=50):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count))  # the label is the place in the set


def collect(image_set, size, **options):
    return list(Batches(image_set, size, mean=MEAN, std=STD, **options))


def test_images_are_normalised_and_in_order():
    whole = numbered()
    batches = collect(whole, 16)
    images = torch.cat([batch[0] for batch in batches])
    expected = (whole.images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(images, expected, rtol=0, atol=2e-6)
    assert images.dtype == torch.float32
    assert torch.equal(torch.cat([batch[1] for batch in batches]), whole.labels)
    assert [batch[2] for batch in batches] == [0, 16, 32, 48]


def test_an_epoch_is_a_permutation_that_seed_and_epoch_fix():
    def order(**options):
        return torch.cat(
            [labels for _, labels, _ in collect(numbered(), 16, shuffle=True, **options)]
        ).tolist()

    first = order(seed=1, epoch=2)
    assert sorted(first) == list(range(50))
    assert first == order(seed=1, epoch=2)
    assert (
        len({tuple(first), tuple(order(seed=1, epoch=3)), tuple(order(seed=2, epoch=2)), tuple(range(50))})
        == 4
    )


def test_iterating_again_gives_the_same():
    batches = Batches(numbered(), 16, mean=MEAN, std=STD, shuffle=True, augment=ALL, seed=1)
    for one, again in zip(batches, batches, strict=True):
        assert torch.equal(one[0], again[0])


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_see_exactly_the_joined_batches(world):
    options = {"shuffle": True, "augment": ALL, "seed": 3, "epoch": 4}
    joined = collect(numbered(), 16, **options)
    ranks = [
        collect(numbered(), 16, rank=rank, world_size=world, drop_last=True, **options)
        for rank in range(world)
    ]
    assert all(len(rank) == 3 for rank in ranks)
    for step, (images, labels, first) in enumerate(joined[:3]):
        parts = [rank[step] for rank in ranks]
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)
        for part, before in zip(
            parts, torch.tensor([0] + [len(part[1]) for part in parts]).cumsum(0), strict=False
        ):
            assert part[2] == first + int(before)


def test_the_batch_size_changes_no_image():
    options = {"shuffle": True, "augment": ALL, "seed": 3}
    for size in (1, 7, 50, 100):
        images = torch.cat([batch[0] for batch in collect(numbered(), size, **options)])
        assert torch.equal(images, torch.cat([batch[0] for batch in collect(numbered(), 16, **options)]))


@pytest.mark.parametrize(
    ("size", "drop_last", "expected"), [(16, False, 4), (16, True, 3), (25, False, 2), (64, True, 0)]
)
def test_length_is_what_comes(size, drop_last, expected):
    batches = Batches(numbered(), size, mean=MEAN, std=STD, drop_last=drop_last)
    assert len(batches) == len(list(batches)) == expected


def test_cut_out_pixels_are_nearly_zero_after_normalisation():
    cut = collect(numbered(), 50, augment=Augmentation(cutout=3))[0][0]
    plain = collect(numbered(), 50)[0][0]
    assert cut[cut != plain].abs().max() <= 0.5 / 255 / min(STD) + 1e-6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"batch_size": 1, "world_size": 2}, "too small"),
        ({"batch_size": 7, "world_size": 2}, "drop_last=True"),
        ({"mean": (0.5,)}, "3 channels"),
        ({"std": (1, 1, 0)}, "std must be positive"),
        ({"augment": Augmentation(crop=9)}, "does not fit images of side 8"),
    ],
)
def test_wrong_arguments_are_refused(options, said):
    arguments = {"batch_size": 16, "mean": MEAN, "std": STD} | options
    with pytest.raises(ValueError, match=said):
        Batches(numbered(), arguments.pop("batch_size"), **arguments)
