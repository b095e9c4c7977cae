"""Random crop, horizontal flip and cutout of whole uint8 batches.

What happens to an image is a function of (seed, epoch, index of the image in its set): a counter-based
generator, so the batch size, the rank and a resumption make no difference. Crop and flip are one gather over
the padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_STREAMS = {"row": 1, "column": 2, "flip": 3, "cutout row": 4, "cutout column": 5}


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

    def draw(stream: str, below: int) -> Tensor:
        return uniform_below(below, index, seed=seed, epoch=epoch, stream=_STREAMS[stream])

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
    """int64 in [0, below), one per element of ``index``: the hash of (seed, epoch, stream, index).

    The upper 32 bits times ``below``, shifted: the residues differ in probability by less than 2**-32, which
    no augmentation notices (masks of the protocol come from ``fault/masks.py``, which is exactly uniform).
    """
    key = torch.zeros((), dtype=torch.int64)
    for word in (seed, epoch, stream):
        key = _mix(key + _GOLDEN + _signed(word))
    high = (_mix(index * _GOLDEN + int(key)) >> 32) & 0xFFFFFFFF
    return (high * below) >> 32


def _signed(word: int) -> int:
    """The low 64 bits of a Python integer as a signed 64-bit value."""
    word &= 0xFFFFFFFFFFFFFFFF
    return word - (word >> 63 << 64)


_GOLDEN = _signed(0x9E3779B97F4A7C15)


def _mix(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection of 64-bit words, every
    output bit depending on every input bit. int64 products wrap as unsigned ones do; the masks make the
    shifts logical.
    """
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _signed(0x94D049BB133111EB)
    return z ^ ((z >> 31) & (2**33 - 1))
