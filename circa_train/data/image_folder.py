"""Any data set as folders of images: ``<root>/train/<class>/*`` and ``<root>/test/<class>/*`` (or ``val``).

With both ``test`` and ``val``, ``val`` is the validation split; with one of them it is the test set, and the
validation split is cut from the training images. All images become RGB.

Images may lie in folders of a class folder, and links are followed. What begins with a dot is no part of the
data: the copies of notebooks, and the companions (``._name``) that archives made on a Mac leave, as in
``__MACOSX``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from circa_train.data.decoding import decode_files
from circa_train.data.images import DataError, Decoded, ImageSet

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
#: Images that are not read: leaving them out in silence would change the data set.
_UNREAD = (".gif", ".heic", ".heif", ".avif", ".jp2", ".tga", ".dcm", ".exr", ".svg")
LAYOUT = "train/<class>/<image> and test/<class>/<image> (or val/...)"

Listing = dict[str, dict[str, list[Path]]]  # part -> class -> images


def listing(root: Path) -> Listing:
    """{"train" | "validation" | "test": {class: sorted image paths}}; DataError says what the folder
    lacks.
    """
    if not (root / "train").is_dir():
        raise DataError(f"there is no folder {root / 'train'}; {root} should contain {LAYOUT}")
    has_test, has_val = (root / "test").is_dir(), (root / "val").is_dir()
    if not has_test and not has_val:
        raise DataError(f"{root} has neither 'test' nor 'val'; move a part of the images of each class from "
                        f"train/<class>/ to test/<class>/, for a test set that training never sees: {LAYOUT}")
    places = {"train": "train", "test": "test" if has_test else "val"}
    if has_test and has_val:
        places["validation"] = "val"
    try:
        found = {part: _classes(root / place) for part, place in places.items()}
    except OSError as error:
        raise DataError(f"cannot read the folders of {root}: {error}") from error
    for part, classes in found.items():
        if differing := sorted(set(classes) ^ set(found["train"])):
            raise DataError(
                f"{root / places[part]} and {root / 'train'} differ in the classes {', '.join(differing)}; "
                "every class needs a folder with images in each"
            )
    return found


def _classes(place: Path) -> dict[str, list[Path]]:
    classes = {}
    for folder in sorted(path for path in _entries(place) if path.is_dir()):
        images = sorted(_images(folder, set()))
        if not images:
            raise DataError(f"{folder} has no images ({', '.join(SUFFIXES)}); remove it or fill it")
        classes[folder.name] = images
    if not classes:
        raise DataError(f"{place} has no class folders; the layout is {LAYOUT}")
    return classes


def _images(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Every image below a folder; ``seen`` are the folders that have been entered, links resolved."""
    if (real := folder.resolve()) in seen:
        raise DataError(f"{folder} is a link to {real}, whose images are there already; remove the link")
    seen.add(real)
    for path in _entries(folder):
        suffix = path.suffix.lower()
        if path.is_dir():
            yield from _images(path, seen)
        elif suffix in _UNREAD:
            raise DataError(f"{path} is an image of a kind that is not read; there are {', '.join(SUFFIXES)}")
        elif suffix in SUFFIXES:
            if not path.is_file():
                what = "a link to nothing" if path.is_symlink() else "no regular file"
                raise DataError(f"{path} has the name of an image and is {what}; remove it")
            yield path


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder and is part of the data. Names that cannot be written down are refused."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "__MACOSX"]
    for path in entries:
        if not path.name.isprintable():  # bytes that are no UTF-8 are not printable either
            raise DataError(
                f"{folder} holds {path.name!r}, a name with control characters or bytes that are no UTF-8; "
                "rename it"
            )
    return entries


def files(found: Listing) -> list[Path]:
    """All images of a listing."""
    return [path for classes in found.values() for paths in classes.values() for path in paths]


def decode(found: Listing, image_size: int | None, *, label: str) -> Decoded:
    """The images as (N, 3, S, S); labels count the sorted class names."""
    images = decode_files(files(found), image_size, label=label)
    sets, start = {}, 0
    for part, classes in found.items():
        labels = torch.tensor([number for number, paths in enumerate(classes.values()) for _ in paths])
        sets[part] = ImageSet(images[start : start + len(labels)], labels)
        start += len(labels)
    return Decoded(sets["train"], sets["test"], tuple(found["train"]), sets.get("validation"))
