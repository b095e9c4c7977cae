"""Images per second of the input pipeline, against torchvision's transforms in a DataLoader with two workers.

Both do the same on the same CIFAR-sized images: random crop with 4 pixels of padding, random flip,
normalisation, batches of 128 in shuffled order.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from circa_train.benchmark.timing import Spread, interleaved
from circa_train.data import MEAN, STD, Augmentation, Batches, ImageSet, torchvision_datasets

CROP = 4


@dataclass(frozen=True)
class PipelineSpeed:
    """Median images per second of either pipeline; median and quartiles of the ratio, ours over theirs."""

    batches: float
    dataloader: float
    ratio: float
    low: float
    high: float


class _PillowImages(Dataset):
    """What torchvision's CIFAR10 does per item: array -> PIL image -> transforms -> tensor."""

    def __init__(self, image_set: ImageSet) -> None:
        from torchvision import transforms

        self.images = image_set.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = image_set.labels.tolist()
        self.transform = transforms.Compose([
            transforms.RandomCrop(self.images.shape[1], padding=CROP),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN["cifar10"], STD["cifar10"]),
        ])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def measure_pipelines(
    *, images: int = 50_000, batch_size: int = 128, workers: int = 2, repeats: int = 3
) -> PipelineSpeed:
    """Time ``repeats`` pairs of epochs over ``images`` random images on the CPU. Needs torchvision."""
    torchvision_datasets("cifar10")  # a clear error where torchvision does not import
    generator = torch.Generator().manual_seed(0)
    image_set = ImageSet(
        torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator),
        torch.randint(0, 10, (images,), generator=generator),
    )
    loader = DataLoader(
        _PillowImages(image_set),
        batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    epochs = itertools.count()

    def ours() -> None:
        _pass_through(
            Batches(
                image_set, batch_size, mean=MEAN["cifar10"], std=STD["cifar10"], shuffle=True,
                augment=Augmentation(crop=CROP, flip=True), epoch=next(epochs),
            )
        )  # fmt: skip

    def theirs() -> None:
        _pass_through(loader)

    theirs()  # the workers start once
    seconds = interleaved((ours, theirs), repeats)
    mine, other = ([images / taken for taken in side] for side in seconds)
    ratio = Spread.of([a / b for a, b in zip(mine, other, strict=True)])
    return PipelineSpeed(
        statistics.median(mine), statistics.median(other), ratio.median, ratio.low, ratio.high
    )


def _pass_through(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass
