"""The files of an export folder as bytes: all of them, regular, of bounded size, each with its checksum.

Nothing is believed before it is read: a name may lead to a pipe that never ends, to a device, or to a file
larger than the memory.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from circa_train.export.layers import ExportError

SUMS = "SHA256SUMS"

_MIB = 2**20

#: The largest size of each file. Weights are one int32 per parameter, vectors some ten megabytes per image of
#: a large network.
LARGEST = {
    "manifest.json": 64 * _MIB,
    "weights.safetensors": 4096 * _MIB,
    "vectors.safetensors": 8192 * _MIB,
    "network.onnx": 2048 * _MIB,  # a protocol buffer holds no more
    "README.md": _MIB,
    "reader.py": _MIB,
}

FILES = tuple(LARGEST)


def read_folder(folder: Path) -> tuple[dict[str, bytes], str]:
    """The contents of all files, checked against the checksums, and the digest of these.

    Raises:
        ExportError: naming what is missing, extra, damaged, too large or no file.
    """
    if not (folder / SUMS).is_file():
        raise ExportError(f"{folder} is no export folder: it has no {SUMS}")
    listing = read_regular(folder / SUMS, _MIB)
    lines = [line.split("  ", 1) for line in listing.decode(errors="replace").splitlines()]
    recorded = {line[-1]: line[0] for line in lines}
    try:
        present = {path.name for path in folder.iterdir()} - {SUMS}
    except OSError as error:
        raise ExportError(f"{folder} cannot be read: {error}") from error
    if set(recorded) != set(FILES) or present != set(FILES):
        wrong = sorted((set(recorded) ^ set(FILES)) | (present ^ set(FILES)))
        raise ExportError(f"{folder} is damaged: missing, extra or not in {SUMS}: {', '.join(wrong)}")
    contents = {}
    for name, largest in LARGEST.items():
        contents[name] = read_regular(folder / name, largest)
        if hashlib.sha256(contents[name]).hexdigest() != recorded[name]:
            raise ExportError(
                f"{folder}/{name} is damaged: it does not have the SHA-256 recorded in {SUMS}; restore it "
                "from a copy"
            )
    return contents, hashlib.sha256(listing).hexdigest()


def read_regular(path: Path, largest: int) -> bytes:
    """The contents of a regular file, or a link to one, of at most ``largest`` bytes; opening never waits.

    Raises:
        ExportError: if it is anything else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ExportError(f"{path} is no regular file")
        if about.st_size > largest:
            raise ExportError(f"{path} has {about.st_size} bytes; no export has more than {largest} there")
        try:
            content = file.read(largest + 1)
        except OSError as error:
            raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > largest:
        raise ExportError(f"{path} grows while it is read")
    return content
