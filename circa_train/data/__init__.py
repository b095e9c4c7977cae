"""Data sets as one uint8 tensor each, split three ways, and batches drawn from them.

``load_data`` gives a ``DataSplits`` whose test set nothing but the final evaluation may look at: the best
checkpoint is chosen on the validation split, which is always cut from the training images. ``Batches`` walks
one split, augments and normalises whole batches at once. Everything random is a function of its arguments
alone: the splits of the seed, the order of (seed, epoch), the augmentation of (seed, epoch, image). So a
resumed, a distributed and a rebatched run see the same images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.data.augmentation import Augmentation
    from circa_train.data.batches import Batches
    from circa_train.data.cifar import MEAN, STD, torchvision_datasets
    from circa_train.data.images import DataError, DataSplits, ImageSet
    from circa_train.data.loading import data_names, decode_own, load_data
    from circa_train.data.own import register_dataset

__all__ = [
    "MEAN",
    "STD",
    "Augmentation",
    "Batches",
    "DataError",
    "DataSplits",
    "ImageSet",
    "data_names",
    "decode_own",
    "load_data",
    "register_dataset",
    "torchvision_datasets",
]

__getattr__, __dir__ = face(
    __name__,
    {
        "Augmentation": "augmentation",
        "Batches": "batches",
        "DataError": "images",
        "DataSplits": "images",
        "ImageSet": "images",
        "MEAN": "cifar",
        "STD": "cifar",
        "data_names": "loading",
        "decode_own": "loading",
        "load_data": "loading",
        "register_dataset": "own",
        "torchvision_datasets": "cifar",
    },
)
