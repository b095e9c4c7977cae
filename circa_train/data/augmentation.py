"""Random crop, horizontal flip and cutout of whole uint8 batches.

What happens to an image is a function of (seed, epoch, index of the image in its set), by the counter-based
generator :mod:`circa_train.philox`: the batch size, the rank and a resumption make no difference. Crop and
flip are one gather over the padded batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circa_train.philox import MASK32, philox

#: The independent choices made for an image, in the order in which they take the generator's words.
_STREAMS = ("row", "column", "flip", "cutout row", "cutout column")


@dataclass(frozen=True)
class Augmentation:
    """``crop``: pixels of black padding on each side before a crop to the old size; ``flip``: mirror every
    other image left to right; ``cutout``: side of a square, centred anywhere in the image, that is filled
    with the mean colour (DeVries and Taylor 2017). 0 and False are off.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("crop", "cutout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"augmentation {name} is a number of pixels, 0 or more, not {value!r}")
        if not isinstance(self.flip, bool):
            raise ValueError(f"augmentation flip is true or false, not {self.flip!r}")

    def __bool__(self) -> bool:
        return bool(self.crop or self.flip or self.cutout)


def augment(
    images: Tensor, index: Tensor, augmentation: Augmentation, *, seed: int, epoch: int, fill: Sequence[int]
) -> Tensor:
    """The augmented copy of ``images`` uint8 (N, C, H, W); ``index`` int64 (N,) are their places in the set.

    ``fill`` is the colour per channel, 0 to 255, of cut out pixels. Cropped-in pixels are black.
    """

    words = functools.cache(lambda block: _words(index, seed, epoch, block))

    def draw(choice: str, below: int) -> Tensor:
        block, word = divmod(_STREAMS.index(choice), 4)
        return (words(block)[word] * below) >> 32

    count, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    pad = augmentation.crop
    if pad or augmentation.flip:
        source_columns = columns.expand(count, width)
        if augmentation.flip:
            mirrored = draw("flip", 2).bool()
            source_columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
        source_rows = rows.expand(count, height)
        if pad:
            padded = images.new_zeros(count, channels, height + 2 * pad, width + 2 * pad)
            padded[:, :, pad:-pad, pad:-pad] = images
            images = padded
            source_rows = source_rows + draw("row", 2 * pad + 1)[:, None]
            source_columns = source_columns + draw("column", 2 * pad + 1)[:, None]
        pixel = source_rows[:, :, None] * images.shape[3] + source_columns[:, None, :]
        pixel = pixel.view(count, 1, height * width).expand(count, channels, height * width)
        images = images.flatten(2).gather(2, pixel).view(count, channels, height, width)
    if augmentation.cutout:
        top = draw("cutout row", height) - augmentation.cutout // 2
        left = draw("cutout column", width) - augmentation.cutout // 2
        in_rows = (rows >= top[:, None]) & (rows < top[:, None] + augmentation.cutout)
        in_columns = (columns >= left[:, None]) & (columns < left[:, None] + augmentation.cutout)
        colour = torch.tensor(fill, dtype=torch.uint8, device=images.device).view(1, channels, 1, 1)
        images = torch.where((in_rows[:, :, None] & in_columns[:, None, :])[:, None], colour, images)
    return images


def uniform_below(below: int, index: Tensor, *, seed: int, epoch: int, stream: int) -> Tensor:
    """int64 in [0, below), one per element of ``index``, for below <= 2^31; streams are numbered from 0.

    A 32-bit word times ``below``, shifted: the probabilities of two values differ by at most 2^-32, which no
    augmentation notices (the protocol's masks come from ``fault/masks.py`` and are exactly uniform).
    """
    word = _words(index, seed, epoch, stream // 4)[stream % 4]
    return (word * below) >> 32


def _words(index: Tensor, seed: int, epoch: int, block: int) -> list[Tensor]:
    """Four random words for every image, int64 in [0, 2^32): see :mod:`circa_train.philox`."""
    seed &= 2**64 - 1  # any Python integer is a seed
    epochs, blocks = torch.full_like(index, epoch & MASK32), torch.full_like(index, 2**31 | block)
    return philox([index & MASK32, index >> 32, epochs, blocks], (seed & MASK32, seed >> 32))
