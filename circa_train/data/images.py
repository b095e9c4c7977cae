"""What a data set is once it is in memory: images, labels, splits, and the error that says what is wrong with
one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class DataError(ValueError):
    """A data set that is missing, damaged or not laid out as expected; the message says which and what to
    do.
    """


def fetch_command(name: str, root: object) -> str:
    """The line that fetches a public data set, for messages."""
    call = f"load_data('{name}', root='{root}', download=True)"
    return f'python -c "from circa_train.data import load_data; {call}"'


@dataclass(frozen=True)
class ImageSet:
    """``images`` uint8 (N, C, H, W) with H = W, ``labels`` int64 (N,), on one device."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if (
            self.images.dtype != torch.uint8
            or self.images.ndim != 4
            or self.images.shape[2] != self.images.shape[3]
        ):
            raise ValueError(f"images must be uint8 of shape (N, C, H, H), not {self.images.dtype} "
                             f"of shape {tuple(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels must be int64 of shape ({len(self.images)},), not {self.labels.dtype} "
                             f"of shape {tuple(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> ImageSet:
        """A copy of the images at ``index`` (int64, on the CPU)."""
        index = index.to(self.labels.device)
        return ImageSet(self.images[index], self.labels[index])

    def to(self, device: str | torch.device) -> ImageSet:
        """The same set on ``device``."""
        return ImageSet(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Decoded:
    """A source as it lies on the disk: its training and test images, and its own validation images if it has
    any.
    """

    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    validation: ImageSet | None = None


@dataclass(frozen=True)
class DataSplits:
    """A data set ready for training: three disjoint splits and the normalisation that goes with them.

    ``mean`` and ``std`` are per channel, for images scaled to [0, 1]; checkpoints record them.
    """

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Side of the square images in pixels."""
        return self.train.images.shape[-1]

    @property
    def channels(self) -> int:
        """1 for greyscale, 3 for RGB."""
        return self.train.images.shape[1]


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact mean and standard deviation per channel of uint8 (N, C, H, W), in units of 255.

    From the 256-bin histogram of each channel, so that neither float images nor rounding of long sums come
    in. A channel that never varies gets standard deviation 1: dividing by it must leave zeros, not
    infinities.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        histogram = torch.zeros(256, dtype=torch.int64)
        for part in images[:, channel].split(4096):  # bincount widens to int64: a part at a time
            histogram += torch.bincount(part.flatten(), minlength=256).cpu()
        weights = histogram.double() / histogram.sum()
        centre = float((weights * levels).sum())
        spread = float((weights * (levels - centre) ** 2).sum()) ** 0.5
        mean.append(centre)
        std.append(spread or 1.0)
    return tuple(mean), tuple(std)
