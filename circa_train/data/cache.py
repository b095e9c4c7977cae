"""Decoded data sets, kept as memory-mapped files: decoding happens once per source.

Below ``<root>/.circa_cache/<name>-<fingerprint>/`` lie ``train.npy``, ``train_labels.npy``, the same for the
other sets, and ``index.json``: format, class names, CRC-32 of every array and of itself. The fingerprint is
of the source's file list with sizes and modification times and of the decoding options: a changed source is
decoded again. The folder appears by one rename, and checksums are compared at each load, so a half-written or
damaged cache is never used but rebuilt.

Arrays are mapped copy-on-write: several processes share the pages, and nobody's writing reaches the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from circa_train.data.images import Decoded, ImageSet
from circa_train.files import read_json, whole_folder, write_json

FOLDER = ".circa_cache"
FORMAT = 2
_INDEX = "index.json"


def cached(
    root: Path, name: str, files: Iterable[Path], options: Mapping[str, Any], decode: Callable[[], Decoded]
) -> Decoded:
    """``decode()``, or what it gave when it was last run on the same files with the same (JSON-readable)
    options.
    """
    folder = root / FOLDER / f"{name}-{fingerprint(files, options)}"
    if folder.is_dir():
        found = _read(folder)
        if found is not None:
            return found
        warnings.warn(f"the cache {folder} is damaged; decoding the data set again", stacklevel=2)
        shutil.rmtree(folder, ignore_errors=True)
    decoded = decode()
    try:
        _write(folder, decoded)
    except OSError as error:
        warnings.warn(
            f"cannot keep the decoded data set in {folder} ({error}); it will be decoded again next time",
            stacklevel=2,
        )
        return decoded
    return _read(folder) or decoded


def fingerprint(files: Iterable[Path], options: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that change when a file's path, size or modification time or an option
    changes.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, dict(options)], sort_keys=True).encode())
    for file in sorted(files):
        status = file.stat()
        digest.update(b"\0" + os.fsencode(file.absolute()))
        digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _write(folder: Path, decoded: Decoded) -> None:
    sets = {"train": decoded.train, "test": decoded.test}
    if decoded.validation is not None:
        sets["validation"] = decoded.validation
    arrays = {}
    for name, image_set in sets.items():
        arrays[f"{name}.npy"] = image_set.images.numpy()
        arrays[f"{name}_labels.npy"] = image_set.labels.numpy()
    index = {
        "format": FORMAT,
        "class_names": list(decoded.class_names),
        "sets": list(sets),
        "crc32": {name: _checksum(array) for name, array in arrays.items()},
    }
    with whole_folder(folder, replace=False) as new:
        for name, array in arrays.items():
            np.save(new / name, np.ascontiguousarray(array), allow_pickle=False)
        write_json(new / _INDEX, index | {"index_crc32": _index_checksum(index)})


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _index_checksum(index: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(index, sort_keys=True).encode())


def _read(folder: Path) -> Decoded | None:
    """The cached set, or None if anything about it is not as it was written."""
    try:
        index: Any = read_json(folder / _INDEX)
        if index is None or index.pop("index_crc32") != _index_checksum(index):
            return None
        sets = {}
        for name in index["sets"]:
            arrays = []
            for file in (f"{name}.npy", f"{name}_labels.npy"):
                array = np.load(folder / file, mmap_mode="c", allow_pickle=False)
                if _checksum(array) != index["crc32"][file]:
                    return None
                arrays.append(torch.from_numpy(array))
            sets[name] = ImageSet(*arrays)
        return Decoded(sets["train"], sets["test"], tuple(index["class_names"]), sets.get("validation"))
    except Exception:  # damaged bytes surface as almost any error of the readers of JSON and of arrays
        return None
