"""Image files to one uint8 tensor, in parallel threads (Pillow decodes outside the interpreter's lock)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from circa_train.bars import bar
from circa_train.data.images import DataError

_CHUNK = 128  # images per task: handing out 32x32 images one at a time costs more than decoding them


def decode_files(paths: Sequence[Path], image_size: int | None, *, label: str) -> Tensor:
    """uint8 (N, 3, S, S), in the order of ``paths``; greyscale and palette images become RGB, 16 bits 8.

    With ``image_size`` None the first image fixes S, and every image must be S x S. Otherwise the shorter
    side is scaled to ``image_size`` and the middle is cut out. DataError names a file that is damaged or has
    another size.
    """
    side = image_size or _first_side(paths[0])
    images = np.empty((len(paths), 3, side, side), dtype=np.uint8)

    def decode(start: int) -> int:
        chunk = paths[start : start + _CHUNK]
        for position, path in enumerate(chunk, start):
            image = _open(path)
            fitted = _fit(image, side) if image_size else _require(image, side, path)
            images[position] = np.asarray(fitted).transpose(2, 0, 1)
        return len(chunk)

    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        bar(len(paths), f"decoding {label}", "images") as progress,
    ):
        try:
            for done in pool.map(decode, range(0, len(paths), _CHUNK)):
                progress.update(done)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return torch.from_numpy(images)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return _eight_bits(image, path).convert("RGB")
    except DataError:
        raise
    except Exception as error:  # damaged bytes surface as almost any error of Pillow's readers
        raise DataError(
            f"cannot decode the image {path}: {error}; fetch or unpack the data set again"
        ) from error


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """The image with channels of 8 bits, 0 to 255 being black to white as in the file.

    Pillow's own conversion cuts what is above 255 off, which leaves 16-bit images white. Integers of 32 bits
    and floating-point pixels do not say what is white, so they are refused.
    """
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if sixteen:
        levels = np.asarray(image).astype(np.int64)
        return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise DataError(
            f"{path} has {kind} pixels, which do not say what is white: save the images with 8 or 16 bits "
            "per channel"
        )
    return image


def _first_side(path: Path) -> int:
    width, height = _open(path).size
    if width != height:
        raise DataError(
            f"{path} is {width}x{height}; images must be square: set image_size to scale and cut them"
        )
    return width


def _require(image: Image.Image, side: int, path: Path) -> Image.Image:
    if image.size != (side, side):
        raise DataError(f"{path} is {image.width}x{image.height} and the first image {side}x{side}; "
                        "set image_size to have all of them scaled and cut to one size")
    return image


def _fit(image: Image.Image, side: int) -> Image.Image:
    scale = side / min(image.size)
    width, height = max(side, round(image.width * scale)), max(side, round(image.height * scale))
    left, top = (width - side) // 2, (height - side) // 2
    return image.resize((width, height)).crop((left, top, left + side, top + side))
