"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), read and fetched by torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from circa_train.data.images import DataError, Decoded, ImageSet, fetch_command

# Over the 50,000 official training images.
MEAN = {"cifar10": (0.4914, 0.4822, 0.4465), "cifar100": (0.5071, 0.4865, 0.4409)}
STD = {"cifar10": (0.2470, 0.2435, 0.2616), "cifar100": (0.2673, 0.2564, 0.2762)}


def torchvision_datasets(name: str) -> Any:
    """The module ``torchvision.datasets``, imported here because it costs seconds and does not import
    everywhere.
    """
    try:
        from torchvision import datasets
    # a torchvision built for another torch fails with RuntimeError
    except (ImportError, RuntimeError) as error:
        raise DataError(f"data set {name!r} is read by torchvision, which does not import here ({error}); "
                        "install the torchvision that matches your torch") from error
    return datasets


def files(name: str, root: Path, *, download: bool) -> list[Path]:
    """The official files, fetched first if asked for. DataError says which are missing and how to get
    them.
    """
    source = _source(name)
    folder = root / source.base_folder
    needed = [folder / file for file, _ in source.train_list + source.test_list] + [
        folder / source.meta["filename"]
    ]
    missing = [file.name for file in needed if not file.is_file()]
    if missing and download:
        try:
            source(str(root), download=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise DataError(f"could not fetch data set {name!r} from {source.url}: {error}") from error
    elif missing:
        raise DataError(
            f"data set {name!r} is not in {root}: missing {', '.join(missing)} in {folder}. Fetch it with\n"
            f"    {fetch_command(name, root)}\n"
            f"or unpack the official {source.filename} there, which gives "
            f"{folder}/{{{','.join(file.name for file in needed)}}}"
        )
    return needed


def decode(name: str, root: Path) -> Decoded:
    """The official training and test images as (N, 3, 32, 32). A file that is not the official one is
    named.
    """
    from torchvision.datasets.utils import check_integrity

    source = _source(name)
    folder = root / source.base_folder
    # The files are pickles, which may run code when loaded: only the official bytes are opened.
    for file, md5 in [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]:
        if not check_integrity(str(folder / file), md5):
            raise DataError(
                f"{folder / file} is damaged: its MD5 is not {md5}; delete it and fetch {name!r} again"
            )
    train, test = source(str(root), train=True), source(str(root), train=False)
    return Decoded(_image_set(train), _image_set(test), tuple(train.classes))


def _source(name: str) -> Any:
    datasets = torchvision_datasets(name)
    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]


def _image_set(part: Any) -> ImageSet:
    images = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
    return ImageSet(torch.from_numpy(images), torch.tensor(part.targets, dtype=torch.int64))
