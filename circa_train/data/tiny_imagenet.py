"""TinyImageNet (Stanford CS231n): 200 classes, 64x64, 500 training and 50 labelled validation images of each.

The official test images have no labels, so, as in the literature, the official *validation* images are the
test set here, and the validation split is cut from the training images. A few hundred files are greyscale;
they become RGB.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from circa_train.data.cifar import torchvision_datasets
from circa_train.data.decoding import decode_files
from circa_train.data.images import DataError, Decoded, ImageSet, fetch_command
from circa_train.files import whole_folder

NAME = "tiny_imagenet"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
FOLDER = "tiny-imagenet-200"
LAYOUT = "{wnids.txt, words.txt, train/<wnid>/images/*.JPEG, val/images/*.JPEG, val/val_annotations.txt}"
# Over the 100,000 training images.
MEAN, STD = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)


def folder(root: Path, *, download: bool) -> Path:
    """Where the set lies, fetched and unpacked first if asked for; DataError says what is missing."""
    place = root / FOLDER
    if not place.is_dir() and download:
        archive = root / f"{FOLDER}.zip"
        fetch(URL, archive, MD5)
        unpack(archive, place, MD5)
    if not place.is_dir():
        raise DataError(
            f"data set {NAME!r} is not in {root}. Fetch it (248 MB) with\n"
            f"    {fetch_command(NAME, root)}\n"
            f"or unpack {URL} there, which gives {place}/{LAYOUT}"
        )
    return place


def fetch(url: str, target: Path, md5: str | None = None) -> None:
    """Download to ``target``. One that is there and has the MD5 is kept; any other is fetched anew."""
    try:
        torchvision_datasets(NAME).utils.download_url(url, str(target.parent), target.name, md5)
    except (OSError, RuntimeError) as error:
        raise DataError(f"could not fetch {url}: {error}") from error


def unpack(archive: Path, place: Path, md5: str) -> None:
    """Check the archive's MD5 and unpack it so that ``place`` appears complete or not at all."""
    utils = torchvision_datasets(NAME).utils
    if not utils.check_integrity(str(archive), md5):
        raise DataError(f"{archive} is damaged: its MD5 is not {md5}; delete it and fetch {NAME!r} again")
    with whole_folder(place, replace=False) as new:
        with zipfile.ZipFile(archive) as members:
            for name in members.namelist():
                if not (new / name).resolve().is_relative_to(new.resolve()):
                    raise DataError(f"{archive} would write outside its folder: {name!r}")
        utils.extract_archive(str(archive), str(new))
        inner = new / place.name
        if not inner.is_dir():
            raise DataError(f"{archive} has no folder {place.name}")
        for entry in inner.iterdir():
            entry.rename(new / entry.name)
        inner.rmdir()


def files(place: Path) -> list[Path]:
    """Everything the decoded set depends on."""
    train, test, _ = _listing(place)
    return [place / "wnids.txt", place / "val" / "val_annotations.txt", *(path for path, _ in train + test),
            *(path for path in [place / "words.txt"] if path.is_file())]


def decode(place: Path) -> Decoded:
    """Train and (official validation) test images as (N, 3, 64, 64)."""
    train, test, class_names = _listing(place)
    images = decode_files([path for path, _ in train + test], None, label=NAME)
    labels = torch.tensor([label for _, label in train + test])
    cut = len(train)
    return Decoded(ImageSet(images[:cut], labels[:cut]), ImageSet(images[cut:], labels[cut:]), class_names)


def _listing(place: Path) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]], tuple[str, ...]]:
    """(path, label) of the training and of the test images, in a fixed order, and the class names."""
    wnids = _lines(place / "wnids.txt")
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    words = {}
    if (place / "words.txt").is_file():
        words = dict(line.split("\t", 1) for line in _lines(place / "words.txt") if "\t" in line)
    train: list[tuple[Path, int]] = []
    for wnid, label in labels.items():
        if Path(wnid).name != wnid:
            raise DataError(f"{place / 'wnids.txt'} is damaged: {wnid!r} is no name of a class")
        # ._name is no image but what archives made on a Mac leave beside one
        images = sorted((place / "train" / wnid / "images").glob("[!.]*.JPEG"))
        if not images:
            raise DataError(
                f"{place / 'train' / wnid / 'images'} has no images; {place} should contain {LAYOUT}"
            )
        train += [(path, label) for path in images]
    test: list[tuple[Path, int]] = []
    annotations = place / "val" / "val_annotations.txt"
    for line in _lines(annotations):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in labels or Path(fields[0]).name != fields[0]:
            raise DataError(f"{annotations} is damaged: cannot read the line {line!r}")
        path = place / "val" / "images" / fields[0]
        if not path.is_file():
            raise DataError(f"{path} is missing; {annotations} names it. Unpack the data set again")
        test.append((path, labels[fields[1]]))
    return train, test, tuple(words.get(wnid, wnid) for wnid in wnids)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; {path.parent} should come from {URL}") from error
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty; unpack the data set again")
    return lines
