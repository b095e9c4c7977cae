"""Batches of a split: order, share of each rank, augmentation, normalisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from circa_train.data.augmentation import Augmentation, augment
from circa_train.data.images import ImageSet


class Batches:
    """One epoch of ``image_set``, an iterable of (images, labels, first); iterating again gives the same
    again.

    ``images`` is float32 (n, C, H, W), (pixel / 255 - mean) / std; ``labels`` int64 (n,); both on the set's
    device. ``first`` is the place of the batch's first image in the epoch's order, over all ranks: 0 for the
    first batch of rank 0. Fault masks are addressed by it, so it distinguishes the images of an epoch.

    Args:
        image_set: the images.
        batch_size: images per batch of all ranks together; of a batch of n, rank r of w takes images n·r//w
            to n·(r+1)//w. Two ranks thus see exactly the joined batch. All ranks have the same number of
            batches.
        mean, std: per channel, for pixels in [0, 1].
        shuffle: a permutation that (seed, epoch) determines; otherwise the order of the set.
        augment: what happens to each image, determined by (seed, epoch, its index in the set).
        drop_last: leave out the last batch where it is not full.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        shuffle: bool = False,
        augment: Augmentation | None = None,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        channels, size = image_set.images.shape[1], image_set.images.shape[2]
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, {world_size}), the number of processes, not {rank}")
        if batch_size < world_size:
            raise ValueError(
                f"batch_size {batch_size} is too small: it counts the images of all {world_size} "
                "processes together"
            )
        if not len(mean) == len(std) == channels:
            raise ValueError(f"mean and std need one value for each of the {channels} channels, "
                             f"not {tuple(mean)} and {tuple(std)}")
        if not min(std) > 0:
            raise ValueError(f"std must be positive, not {tuple(std)}")
        self.augmentation = augment or Augmentation()
        if max(self.augmentation.crop, self.augmentation.cutout) > size:
            raise ValueError(f"{self.augmentation} does not fit images of side {size}")
        last = len(image_set) % batch_size
        if world_size > 1 and not drop_last and 0 < last < world_size:
            raise ValueError(
                f"the last batch has {last} images for {world_size} processes, and a process without "
                "images would hang the others; set drop_last=True or change batch_size"
            )
        self.image_set = image_set
        self.batch_size = batch_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.shuffle, self.drop_last = shuffle, drop_last
        self.seed, self.epoch = seed, epoch
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        """Batches per epoch, the same for every rank."""
        full, rest = divmod(len(self.image_set), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def order(self) -> Tensor:
        """The epoch's order: int64 (N,) on the CPU, a permutation of the set's indices."""
        if not self.shuffle:
            return torch.arange(len(self.image_set))
        words = [self.seed & 0xFFFFFFFFFFFFFFFF, self.epoch]
        return torch.from_numpy(np.random.default_rng(words).permutation(len(self.image_set)))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        device = self.image_set.images.device
        order = self.order().to(device)
        fill = [round(255 * value) for value in self.mean]
        shape = (1, len(self.mean), 1, 1)
        centre = torch.tensor(self.mean, device=device).mul_(255).view(shape)
        scale = torch.tensor(self.std, device=device).mul_(255).reciprocal_().view(shape)
        for batch in range(len(self)):
            start = batch * self.batch_size
            count = min(self.batch_size, len(self.image_set) - start)
            first = start + count * self.rank // self.world_size
            index = order[first : start + count * (self.rank + 1) // self.world_size]
            images = self.image_set.images[index]
            if self.augmentation:
                images = augment(
                    images, index, self.augmentation, seed=self.seed, epoch=self.epoch, fill=fill
                )
            yield images.to(torch.float32).sub_(centre).mul_(scale), self.image_set.labels[index], first
