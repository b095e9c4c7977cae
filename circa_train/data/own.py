"""A data set of the user's own: what a factory may return, and how it becomes two uint8 image sets.

A factory is called with ``root`` (and ``download``) if it takes them, and returns

- a :class:`~circa_train.data.images.Decoded`, or
- ``(train, test)``, each a ``torch.utils.data.Dataset`` of (image, label) or a pair (images, labels), or
- ``(train images, train labels, test images, test labels)``, or
- a mapping with ``train`` and ``test`` like these, and if it likes ``validation`` and ``class_names``.

Images are uint8, (N, C, H, W), (N, H, W, C) with 1 or 3 channels, or (N, H, W); in a ``Dataset`` also PIL
images, and floats in [0, 1] that are multiples of 1/255, as ToTensor makes them. All are square and of one
size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circa_train import user_code
from circa_train.data.images import DataError, Decoded, ImageSet

Factory = Callable[..., Any]

#: Those that are known by name.
OWN = user_code.Registry("datasets", "a data set")


def register_dataset(name: str, factory: Factory) -> None:
    """Make a data set of your own known by ``name``: to :func:`load_data`, and to every script as
    ``data.name=<name>``.

    Args:
        name: a name that no data set of ours has.
        factory: see this module's page.

    Raises:
        ValueError: if the name is empty, or holds a colon (which separates a name from its options).
    """
    OWN.register(name, factory)


def decode(name: str, factory: Factory, root: Path, download: bool) -> Decoded:
    """Call the factory and bring what it returns into form.

    Raises:
        DataError: naming the data set and what is wrong with it.
    """
    offered = {"root": root, "download": download}
    taken = inspect.signature(factory).parameters if callable(factory) else {}
    made = (
        factory(**{key: value for key, value in offered.items() if key in taken})
        if callable(factory)
        else factory
    )
    if isinstance(made, Decoded):
        return made
    if isinstance(made, Mapping):
        parts = dict(made)
    elif isinstance(made, Sequence) and len(made) == 4:
        parts = {"train": (made[0], made[1]), "test": (made[2], made[3])}
    elif isinstance(made, Sequence) and len(made) == 2:
        parts = {"train": made[0], "test": made[1]}
    else:
        raise DataError(
            f"data set {name!r} returned {type(made).__name__}; return (train, test), each a Dataset or "
            "(images, labels)"
        )
    if not {"train", "test"} <= parts.keys():
        raise DataError(f"data set {name!r} has {', '.join(map(str, parts))}; it needs train and test")
    named = parts.get("class_names") or getattr(parts["train"], "classes", None)
    sets = {
        split: _image_set(f"{name}, {split}", parts[split])
        for split in ("train", "test", "validation")
        if parts.get(split) is not None
    }
    classes = 1 + max(int(each.labels.max()) for each in sets.values())
    names = tuple(map(str, named)) if named else tuple(str(number) for number in range(classes))
    if classes > len(names):
        raise DataError(f"data set {name!r} has labels up to {classes - 1}, but {len(names)} class names")
    shapes = {tuple(each.images.shape[1:]) for each in sets.values()}
    if len(shapes) > 1:
        raise DataError(
            f"data set {name!r} has images of different shapes {sorted(shapes)}; all must have one"
        )
    return Decoded(sets["train"], sets["test"], names, sets.get("validation"))


def _image_set(name: str, part: Any) -> ImageSet:
    if isinstance(part, ImageSet):
        return part
    try:
        if isinstance(part, (tuple, list)) and len(part) == 2 and hasattr(part[0], "shape"):
            images, labels = _pixels(part[0]), torch.as_tensor(np.asarray(part[1]))
        else:
            pairs = [part[index] for index in range(len(part))]
            images = torch.stack([_pixels(np.asarray(image)[None])[0] for image, _ in pairs])
            labels = torch.tensor([int(label) for _, label in pairs])
        if len(labels) == 0:
            raise ValueError("there is no image")
        if labels.is_floating_point() or int(labels.min()) < 0:
            raise ValueError("labels are not integers from 0")
        return ImageSet(images, labels.long().flatten())
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise DataError(f"data set {name}: {error}") from error


def _pixels(images: Any) -> Tensor:
    """uint8 (N, C, H, W) of one of the forms that the module's page lists."""
    pixels = images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))
    if pixels.is_floating_point():
        scaled = pixels.double() * 255
        if not bool((scaled - scaled.round()).abs().max() < 1e-3) or scaled.min() < 0 or scaled.max() > 255:
            raise ValueError(
                "images are neither uint8 nor multiples of 1/255 in [0, 1]: leave out the normalisation"
            )
        pixels = scaled.round().to(torch.uint8)
    if pixels.dtype != torch.uint8:
        raise ValueError(f"images are {pixels.dtype}, not uint8")
    if pixels.dim() == 3:
        pixels = pixels.unsqueeze(1)
    if pixels.dim() != 4:
        raise ValueError(
            f"images have the shape {tuple(pixels.shape)}, not (N, C, H, W), (N, H, W, C) or (N, H, W)"
        )
    if pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3):
        pixels = pixels.movedim(3, 1)
    return pixels.contiguous()
