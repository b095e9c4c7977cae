"""``load_data``: a data set by name, decoded once, split three ways, on the device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from circa_train.data import cifar, digits, fashion_mnist, image_folder, own, synthetic, tiny_imagenet
from circa_train.data.cache import cached
from circa_train.data.images import DataError, DataSplits, Decoded, channel_statistics
from circa_train.data.splitting import limited, split

FOLDER_PREFIX = "imagefolder:"
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def data_names() -> tuple[str, ...]:
    """The names ``load_data`` knows, those of registered and installed data sets too."""
    return (
        "digits",
        "synthetic",
        "cifar10",
        "cifar100",
        "fashion_mnist",
        "tiny_imagenet",
        *own.OWN.names(),
        f"{FOLDER_PREFIX}<path>",
    )


def load_data(
    name: str,
    *,
    root: str | os.PathLike[str] = "data",
    download: bool = False,
    device: str | torch.device = "cpu",
    validation_fraction: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> DataSplits:
    """A data set as three uint8 tensors on ``device``.

    Args:
        name: one of ``data_names()``, see :mod:`circa_train.data.own` for your own; also
            ``synthetic:classes=4,size=16,channels=1,images=500``.
        root: folder of the public data sets and of the cache of decoded images. ``imagefolder:<path>`` reads
            from its own path, and only its cache lies here.
        download: fetch a public set that is missing; nothing is ever fetched otherwise.
        device: where the tensors lie.
        validation_fraction: share of the training images that becomes the validation split, stratified by
            class.
        seed: which images those are. The test set never depends on it.
        limit: at most so many images in each split, stratified, for trying things out.
        image_size: imagefolder only: scale and cut all images to this side; None demands that they all have
            one size.
        mean, std: per channel, for pixels in [0, 1], instead of the set's own. By default the documented
            constants of a public set, and for an imagefolder the statistics of the training split (before
            ``limit``).

    Raises:
        DataError: an unknown name, a missing set (with the command that fetches it and the layout), a damaged
            file.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is a number of images, at least 1, not {limit!r}")
    if image_size is not None and (not name.startswith(FOLDER_PREFIX) or image_size < 1):
        raise ValueError(
            f"image_size={image_size!r} scales the images of an imagefolder and must be positive; "
            f"{name!r} has its own size"
        )
    decoded, statistics = _decode(name, Path(root).expanduser(), download, image_size)
    if decoded.validation is None:
        train, validation = split(decoded.train, validation_fraction, seed)
    else:
        train, validation = decoded.train, decoded.validation
    if (mean is None) != (std is None):
        raise ValueError("mean and std belong together: give both or neither")
    if mean is not None and std is not None:
        statistics = tuple(map(float, mean)), tuple(map(float, std))
        channels = train.images.shape[1]
        if not len(statistics[0]) == len(statistics[1]) == channels or not min(statistics[1]) > 0:
            raise ValueError(f"mean and std need one value per channel ({channels}) and std positive ones, "
                             f"not {statistics[0]} and {statistics[1]}")
    elif statistics is None:
        statistics = channel_statistics(train.images)
    parts = (limited(part, limit, seed).to(device) for part in (train, validation, decoded.test))
    train, validation, test = parts
    return DataSplits(
        name, train, validation, test, decoded.class_names, mean=statistics[0], std=statistics[1]
    )


def decode_own(name: str, root: str | os.PathLike[str]) -> Decoded:
    """What the user's code returns for a data set of their own, nothing fetched, split or kept.

    Raises:
        DataError: if there is no such set, or it returns something else.
    """
    factory = own.OWN.find(name)
    if factory is None:
        raise DataError(f"there is no data set of your own called {name!r}")
    return own.decode(name, factory, Path(root).expanduser(), False)


def _decode(
    name: str, root: Path, download: bool, image_size: int | None
) -> tuple[Decoded, Statistics | None]:
    """The decoded source and its documented normalisation, None where that is to be computed."""
    base, _, detail = name.partition(":")
    if name == "digits":
        return digits.decode(), (digits.MEAN, digits.STD)
    if base == "synthetic":
        spec = synthetic.Synthetic.parse(detail)
        return synthetic.decode(spec), ((synthetic.MEAN,) * spec.channels, (synthetic.STD,) * spec.channels)
    if name in cifar.MEAN:
        sources = cifar.files(name, root, download=download)
        decoded = cached(root, name, sources, {}, lambda: cifar.decode(name, root))
        return decoded, (cifar.MEAN[name], cifar.STD[name])
    if name == fashion_mnist.NAME:
        sources = fashion_mnist.files(root, download=download)
        decoded = cached(root, name, sources, {}, lambda: fashion_mnist.decode(sources))
        return decoded, (fashion_mnist.MEAN, fashion_mnist.STD)
    if name == tiny_imagenet.NAME:
        place = tiny_imagenet.folder(root, download=download)
        decoded = cached(root, name, tiny_imagenet.files(place), {}, lambda: tiny_imagenet.decode(place))
        return decoded, (tiny_imagenet.MEAN, tiny_imagenet.STD)
    if name.startswith(FOLDER_PREFIX):
        place = Path(detail).expanduser()
        found = image_folder.listing(place)
        options = {"image_size": image_size}
        label = place.resolve().name
        decoded = cached(root, f"imagefolder-{label}", image_folder.files(found), options,
                         lambda: image_folder.decode(found, image_size, label=label))
        return decoded, None
    factory = own.OWN.find(name)
    if factory is not None:
        return own.decode(name, factory, root, download), None
    raise DataError(
        f"there is no data set {name!r}; there are {', '.join(data_names())}, "
        "and python:<module or file.py>:<name> for one of your own"
    )
