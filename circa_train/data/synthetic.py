"""A made-up data set of any size: learnable, deterministic, there without a download.

The name carries the numbers: ``synthetic`` or ``synthetic:classes=10,size=32,channels=3,images=2000``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from circa_train.data.images import DataError, Decoded, ImageSet

CELLS = 4  # a class is a pattern of CELLS x CELLS colours, so it survives shifts, flips aside
MEAN, STD = 0.5, 0.25


@dataclass(frozen=True)
class Synthetic:
    """Numbers of a synthetic set; ``images`` are for training, a quarter as many come on top for testing."""

    classes: int = 10
    size: int = 32
    channels: int = 3
    images: int = 2000

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise DataError(
                    f"synthetic data: {field.name} must be at least 1, not {getattr(self, field.name)}"
                )
        if self.classes < 2 or self.images < 2 * self.classes or self.size < CELLS:
            raise DataError(
                "synthetic data needs at least 2 classes, 2 training images per class and a size of "
                f"{CELLS}, not {self}"
            )

    @staticmethod
    def parse(text: str) -> Synthetic:
        """From "classes=4,size=16"; the empty text is all defaults."""
        numbers: dict[str, int] = {}
        known = [field.name for field in fields(Synthetic)]
        for item in filter(None, text.split(",")):
            key, _, value = item.partition("=")
            if key not in known or not value.isdecimal():
                raise DataError(
                    f"synthetic data: cannot read {item!r}; write 'synthetic:classes=10,size=32', "
                    f"with any of {', '.join(known)}"
                )
            numbers[key] = int(value)
        return Synthetic(**numbers)


def decode(spec: Synthetic) -> Decoded:
    """Each class is a smooth random pattern; each image is its class's, with its own shift, contrast and
    noise.
    """
    generator = np.random.default_rng(2021)
    centres = (np.arange(spec.size) + 0.5) * CELLS / spec.size - 0.5
    low = np.floor(centres).astype(int)
    weights = np.zeros((spec.size, CELLS))
    np.add.at(weights, (np.arange(spec.size), low % CELLS), 1 - (centres - low))
    np.add.at(weights, (np.arange(spec.size), (low + 1) % CELLS), centres - low)
    cells = generator.uniform(-1, 1, (spec.classes, spec.channels, CELLS, CELLS))
    patterns = np.einsum("ri,kcij,sj->kcrs", weights, cells, weights)

    def draw(count: int) -> ImageSet:
        labels = np.arange(count) % spec.classes
        reach = spec.size // 8
        shifts = generator.integers(-reach, reach + 1, (count, 2))
        contrast = generator.uniform(0.6, 1.0, count)
        images = np.empty((count, spec.channels, spec.size, spec.size), dtype=np.uint8)
        for index in range(count):
            shifted = np.roll(patterns[labels[index]], tuple(shifts[index]), axis=(1, 2))
            noise = generator.normal(0, 0.25, shifted.shape)
            images[index] = np.clip(127.5 + 90 * (contrast[index] * shifted + noise), 0, 255).astype(np.uint8)
        return ImageSet(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))

    train, test = draw(spec.images), draw(max(spec.classes, spec.images // 4))
    return Decoded(train, test, tuple(f"pattern {label}" for label in range(spec.classes)))
