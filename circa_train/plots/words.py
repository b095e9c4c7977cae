"""Names in records -> words in figures."""

from __future__ import annotations

from pathlib import PurePath

#: Data sets by the name that they have in records, or by the folder that holds their images.
_DATA = {
    "cifar10": "CIFAR-10",
    "cifar10_jpeg": "CIFAR-10 (JPEG copy)",
    "cifar100": "CIFAR-100",
    "digits": "digits",
    "fashion_mnist": "Fashion-MNIST",
    "synthetic": "synthetic images",
    "tiny_imagenet": "TinyImageNet",
}

#: The modes of a truncated sign, in the order and with the names that figures show them.
MODE_NAMES = {"poszero": "PosZero", "negpass": "NegPass"}

#: Directions of uniform flips.
DIRECTION_NAMES = {
    "both": "both directions",
    "zeroed": "positives zeroed only",
    "passed": "negatives passed only",
}


def data_title(name: object) -> str:
    """A data set in words: of a folder of images its own name, of somebody's code the name in it.

    >>> data_title("imagefolder:data/cifar10_jpeg"), data_title("imagefolder:/mnt/shop/faces")
    ('CIFAR-10 (JPEG copy)', 'faces')
    >>> data_title("python:my_package.data:pictures"), data_title("cifar100")
    ('pictures', 'CIFAR-100')
    """
    kind, _, place = str(name).partition(":")
    if kind == "imagefolder" and place:
        place = PurePath(place).name or place
        return _DATA.get(place, place)
    if kind == "python" and place:
        return place.rpartition(":")[2]
    return _DATA.get(str(name), str(name))


def model_title(name: object) -> str:
    """A network in words: without the place of somebody's code.

    >>> model_title("python:my/net.py:Net reduced"), model_title("resnet32")
    ('Net reduced', 'resnet32')
    """
    first, _, rest = str(name).partition(" ")
    if first.startswith("python:"):
        first = first.rpartition(":")[2]
    return f"{first} {rest}".strip()


def mode_name(mode: object) -> str:
    return MODE_NAMES.get(str(mode), str(mode))


def mode_rank(mode: object) -> int:
    """Sort key: PosZero, NegPass, then anything else."""
    return list(MODE_NAMES).index(str(mode)) if str(mode) in MODE_NAMES else len(MODE_NAMES)
