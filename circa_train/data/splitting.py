"""Stratified choices of images, determined by a seed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from circa_train.data.images import ImageSet


def stratified_choice(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices (int64, ascending) of ``count`` images; each class has its share of them, up to one image.

    Every class is shuffled and its j-th of n images is given the position (j + 1/2) / n; the lowest positions
    win, ties in a shuffled order of the classes. A larger ``count`` with the same seed extends the choice.
    """
    classes = labels.cpu().numpy()
    positions = np.empty(len(classes))
    ties = np.empty(len(classes), dtype=np.int64)
    present = np.unique(classes)
    order_of_classes = np.random.default_rng([seed, 0]).permutation(len(present))
    for rank, label in zip(order_of_classes, present, strict=True):
        members = np.flatnonzero(classes == label)
        shuffled = np.random.default_rng([seed, 1, int(label)]).permutation(members)
        positions[shuffled] = (np.arange(len(members)) + 0.5) / len(members)
        ties[members] = rank
    chosen = np.lexsort((ties, positions))[:count]
    return torch.from_numpy(np.sort(chosen))


def split(image_set: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """(the rest, a stratified ``fraction`` of the set); both have at least one image."""
    if not 0 < fraction < 1:
        raise ValueError(
            f"validation_fraction must lie between 0 and 1, not {fraction!r}: checkpoints are chosen on "
            "the validation split, so there must be one, and something to train on"
        )
    count = min(max(1, round(fraction * len(image_set))), len(image_set) - 1)
    chosen = stratified_choice(image_set.labels, count, seed)
    rest = torch.ones(len(image_set), dtype=torch.bool)
    rest[chosen] = False
    return image_set.subset(rest.nonzero().flatten()), image_set.subset(chosen)


def limited(image_set: ImageSet, limit: int | None, seed: int) -> ImageSet:
    """At most ``limit`` images of the set, stratified; all of them for None."""
    if limit is None or limit >= len(image_set):
        return image_set
    return image_set.subset(stratified_choice(image_set.labels, limit, seed))
