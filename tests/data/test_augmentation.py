"""Augmentation against a one-image-at-a-time reference; draws uniform by chi-square, and a biased twin that
fails.
"""

from __future__ import annotations

import pytest
import torch

from circa_train.data.augmentation import Augmentation, augment, uniform_below
from circa_train.philox import MASK32, philox

FILL = (10, 20, 30)


def pictures(count=40, size=9):
    return torch.randint(
        1, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def run(images, augmentation, index=None, seed=0, epoch=0):
    index = torch.arange(len(images)) if index is None else index
    return augment(images, index, augmentation, seed=seed, epoch=epoch, fill=FILL)


def crops(image, pad):
    size = image.shape[-1]
    padded = torch.nn.functional.pad(image, (pad,) * 4)
    return [padded[:, r : r + size, c : c + size] for r in range(2 * pad + 1) for c in range(2 * pad + 1)]


def test_every_crop_is_a_window_of_the_padded_image_and_all_windows_occur():
    image = pictures(1)[0]
    windows = crops(image, 2)
    out = run(image.expand(2000, -1, -1, -1), Augmentation(crop=2))
    places = {next(i for i, window in enumerate(windows) if torch.equal(window, picture)) for picture in out}
    # 2000 draws miss one of 25 with probability below 25 * 0.96**2000 < 1e-33
    assert places == set(range(25))


def test_flip_mirrors_left_to_right_or_does_nothing():
    images = pictures()
    out = run(images, Augmentation(flip=True))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(out, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(out, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert any(mirrored)
    assert any(kept)


def test_crop_and_flip_together_give_a_mirrored_window():
    images = pictures()
    for picture, image in zip(run(images, Augmentation(crop=1, flip=True)), images, strict=True):
        windows = crops(image, 1)
        assert any(torch.equal(picture, w) or torch.equal(picture, w.flip(2)) for w in windows)


@pytest.mark.parametrize("side", [1, 4, 5])
def test_cutout_fills_a_clipped_square(side):
    images = pictures(300).clamp_(min=40)
    out = run(images, Augmentation(cutout=side))
    changed = (out != images).any(1)
    for picture, image, cut in zip(out, images, changed, strict=True):
        rows, columns = cut.any(1), cut.any(0)
        assert torch.equal(cut, rows[:, None] & columns)  # a rectangle
        assert 1 <= int(rows.sum()) <= side
        assert torch.equal(picture[:, ~cut], image[:, ~cut])
        assert all((picture[channel][cut] == FILL[channel]).all() for channel in range(3))
    assert int(changed.flatten(1).sum(1).max()) == side * side


def test_what_happens_depends_on_seed_epoch_and_place_alone():
    images, everything = pictures(), Augmentation(crop=2, flip=True, cutout=3)
    whole = run(images, everything, seed=5, epoch=6)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    assert torch.equal(run(images[order], everything, order, seed=5, epoch=6), whole[order])
    assert torch.equal(run(images[7:9], everything, torch.arange(7, 9), seed=5, epoch=6), whole[7:9])
    assert not torch.equal(run(images, everything, seed=5, epoch=7), whole)
    assert not torch.equal(run(images, everything, seed=6, epoch=6), whole)


def test_nothing_asked_nothing_done():
    images = pictures()
    assert torch.equal(run(images, Augmentation()), images)
    assert not Augmentation()


def chi_square(values, below):
    counts = torch.bincount(values.flatten(), minlength=below).double()
    expected = values.numel() / below
    return float(((counts - expected) ** 2 / expected).sum())


def bound(degrees):
    """Mean plus 5 standard deviations of chi-square, plus its skewness term (Cornish-Fisher, first order)."""
    return degrees + 5 * (2 * degrees) ** 0.5 + (2 / 3) * (5**2 - 1)


@pytest.mark.parametrize("below", [2, 9, 32])
def test_draws_are_uniform_and_independent_of_epoch_stream_and_neighbour(below):
    index = torch.arange(100_000)
    one = uniform_below(below, index, seed=3, epoch=1, stream=1)
    assert int(one.min()) == 0
    assert int(one.max()) == below - 1
    assert chi_square(one, below) < bound(below - 1)
    for other in (
        uniform_below(below, index, seed=3, epoch=2, stream=1),
        uniform_below(below, index, seed=3, epoch=1, stream=2),
        uniform_below(below, index, seed=4, epoch=1, stream=1),
        one.roll(1),
    ):
        assert chi_square(one * below + other, below * below) < bound(below * below - 1)


def test_the_bound_sees_a_bias_of_two_percent():
    draws = uniform_below(9, torch.arange(100_000), seed=3, epoch=1, stream=1)
    biased = draws.clone()
    biased[::50] = 0
    assert chi_square(biased, 9) > bound(8)


def test_choices_are_the_words_of_philox_at_counters_that_no_mask_has():
    index = torch.tensor([0, 7, 2**32 + 5])
    top_bit = 1 << 31
    for stream in (0, 3, 4):
        counter = [index & MASK32, index >> 32, *(torch.full((3,), v) for v in (6, top_bit | stream // 4))]
        words = philox(counter, (2**32 - 5, 2**32 - 1))  # the two halves of -5
        got = uniform_below(2**31, index, seed=-5, epoch=6, stream=stream)
        assert torch.equal(got, words[stream % 4] >> 1)


def test_large_and_negative_seeds_are_seeds():
    index = torch.arange(50)
    draws = {
        tuple(uniform_below(1000, index, seed=s, epoch=0, stream=1).tolist())
        for s in (0, -1, 2**63, 2**64 - 2)
    }
    assert len(draws) == 4


@pytest.mark.parametrize("options", [{"crop": -1}, {"cutout": 1.5}, {"crop": True}, {"flip": 1}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Augmentation(**options)
