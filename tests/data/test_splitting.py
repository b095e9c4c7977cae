"""Splits: disjoint, stratified, fixed by the seed; limits; statistics against the plain formula."""

from __future__ import annotations

import pytest
import torch

from circa_train.data.images import ImageSet, channel_statistics
from circa_train.data.splitting import limited, split, stratified_choice

SIZES = (40, 7, 23, 1)


def uneven():
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(SIZES)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    images = torch.arange(len(labels), dtype=torch.uint8).reshape(-1, 1, 1, 1)  # an image is its number
    return ImageSet(images, labels)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
def test_a_split_is_a_partition_in_proportion(fraction):
    whole = uneven()
    rest, chosen = split(whole, fraction, seed=4)
    numbers = torch.cat([rest.images, chosen.images]).flatten().tolist()
    assert sorted(numbers) == list(range(len(whole)))
    assert abs(len(chosen) - fraction * len(whole)) <= 1
    for label, size in enumerate(SIZES):
        assert abs(int((chosen.labels == label).sum()) - len(chosen) * size / len(whole)) <= 1
    assert torch.equal(chosen.labels, whole.labels[chosen.images.flatten().long()])


def test_the_seed_and_nothing_else_decides():
    labels = uneven().labels
    assert torch.equal(stratified_choice(labels, 20, 1), stratified_choice(labels, 20, 1))
    assert not torch.equal(stratified_choice(labels, 20, 1), stratified_choice(labels, 20, 2))
    assert set(stratified_choice(labels, 10, 1).tolist()) < set(stratified_choice(labels, 20, 1).tolist())


def test_both_parts_have_at_least_one_image():
    two = uneven().subset(torch.tensor([0, 1]))
    assert [len(part) for part in split(two, 0.001, 0)] == [1, 1]
    assert [len(part) for part in split(two, 0.999, 0)] == [1, 1]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_there_is_always_a_validation_split(fraction):
    with pytest.raises(ValueError, match="validation_fraction must lie between 0 and 1"):
        split(uneven(), fraction, 0)


def test_limit_takes_at_most_so_many():
    whole = uneven()
    assert len(limited(whole, 10, 0)) == 10
    assert limited(whole, None, 0) is whole
    assert limited(whole, 1000, 0) is whole


def test_statistics_are_those_of_the_pixels():
    images = torch.randint(
        0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    images[:, 1] = 77
    mean, std = channel_statistics(images)
    pixels = images.double() / 255
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert std[0] == pytest.approx(pixels[:, 0].std(correction=0).item(), abs=1e-12)
    assert std[1] == 1.0  # a constant channel must not become infinite


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 1, 4, 5, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2)),
    ],
)
def test_image_sets_of_wrong_type_or_shape_are_refused(images, labels):
    with pytest.raises(ValueError, match="must be"):
        ImageSet(images, labels)
