"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): greyscale, 28x28, padded here with black to 32x32.

The padding gives the image size for which the papers count ReLUs. Files are the official ``idx`` ones, plain
or gzipped, where torchvision puts them or in a folder of their own; torchvision fetches them.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from circa_train.data.cifar import torchvision_datasets
from circa_train.data.images import DataError, Decoded, ImageSet, fetch_command

NAME = "fashion_mnist"
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Over the 60,000 padded training images.
MEAN, STD = (0.2190,), (0.3318,)
PADDING = 2
#: The official files have at most 47,040,016 bytes.
_MAX_BYTES = 1 << 28
_PLACES = ("FashionMNIST/raw", "fashion-mnist", ".")
_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def files(root: Path, *, download: bool) -> list[Path]:
    """Images and labels, train and test: four files, fetched first if asked for. DataError says what is
    missing.
    """
    found = _find(root)
    if found is None and download:
        source = torchvision_datasets(NAME).FashionMNIST
        try:
            source(str(root), download=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise DataError(f"could not fetch data set {NAME!r}: {error}") from error
        found = _find(root)
    if found is None:
        raise DataError(
            f"data set {NAME!r} is not in {root}. Fetch it with\n"
            f"    {fetch_command(NAME, root)}\n"
            f"or put the files {', '.join(file + '[.gz]' for file in _FILES)} into {root / _PLACES[0]} "
            f"or {root / _PLACES[1]}"
        )
    return found


def _find(root: Path) -> list[Path] | None:
    for place in _PLACES:
        found = []
        for name in _FILES:
            plain = root / place / name
            found += [path for path in (plain, plain.with_name(name + ".gz")) if path.is_file()][:1]
        if len(found) == len(_FILES):
            return found
    return None


def decode(paths: list[Path]) -> Decoded:
    """Train and test as (N, 1, 32, 32), from the paths of ``files``."""
    arrays = [_read_idx(path) for path in paths]
    sets = []
    for images, labels, path in ((arrays[0], arrays[1], paths[1]), (arrays[2], arrays[3], paths[3])):
        if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) >= len(CLASS_NAMES):
            raise DataError(f"{path} does not belong to its images: {labels.shape} labels up to "
                            f"{labels.max(initial=0)} for images {images.shape}")
        padded = np.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))[:, None]
        sets.append(ImageSet(torch.from_numpy(padded), torch.from_numpy(labels.astype(np.int64))))
    return Decoded(sets[0], sets[1], CLASS_NAMES)


def _read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an idx file: 0, 0, type 8, number of axes, big-endian sizes, data."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES} bytes")
        zeros, kind, axes = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
        if zeros or kind != 8:
            raise ValueError("it does not begin as an idx file of bytes")
        return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and fetch {NAME!r} again") from error
