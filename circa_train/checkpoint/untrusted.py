"""Files of tensors from anywhere, read without executing anything, in memory bounded by their length.

A file is looked at before it is loaded: what it really is (its first bytes), that nothing in it is compressed
(a thousand bytes can unpack to gigabytes), that every tensor has the bytes that it claims
(:mod:`circa_train.checkpoint.pickled`), and that all tensors together take no more than :data:`MAX_EXPANSION`
times the file. Only then ``torch.load(weights_only=True)`` or safetensors read it.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from circa_train.checkpoint import pickled
from circa_train.checkpoint.pickled import Description, Refused, Unreadable, describe

#: Longest file that is read: 16 GiB, a network of four thousand million weights.
MAX_FILE_BYTES = 1 << 34

#: All tensors of a file together may take so many times its length: weights may be shared, but not for ever.
MAX_EXPANSION = 16

#: A small file may hold a few tensors that repeat one value.
_SLACK = 1 << 20

#: Longest pickle inside a file.
_MAX_PICKLE = 1 << 28

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, unsafe or does not fit; the message names the file and the
    remedy.
    """


def read_tensors(path: Path) -> Any:
    """The contents of a file of ``torch.save`` or safetensors.

    Raises:
        CheckpointError: if it is missing, something else, damaged, unsafe or absurd; nothing of it is loaded
            then.
    """
    if path.is_dir():
        inside = sorted(str(file.relative_to(path)) for file in path.rglob("*.pt"))[:4]
        found = f"; in it: {', '.join(inside)}" if inside else ", and none is in it"
        raise CheckpointError(f"{path} is a folder, and a checkpoint is a file{found}")
    if not path.is_file():
        if path.exists():
            raise CheckpointError(f"{path} is no regular file, and a checkpoint is one")
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise CheckpointError(f"{path} has {size} bytes; files of up to {MAX_FILE_BYTES} are read")
            beginning = file.read(1024)
            if what := _something_else(beginning):
                raise CheckpointError(f"{path} is {what}")
            file.seek(0)
            if path.suffix == ".safetensors":
                return _read_safetensors(path)
            return _read_torch(file, size, beginning)
    except (Refused, Unreadable, pickle.UnpicklingError) as error:
        if isinstance(error, Refused):
            raise CheckpointError(f"{path} is refused: {error}") from error
        raise CheckpointError(
            f"{path} is damaged or is no checkpoint of PyTorch: it does not unpickle"
        ) from error
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, RuntimeError, OSError) as error:  # in sentences
        raise CheckpointError(
            f"{path} is damaged or is no checkpoint of PyTorch: {first_line(error)}"
        ) from error
    # damaged bytes surface as almost any error of the readers, with bare values for text
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged or is no checkpoint of PyTorch: it does not unpickle"
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _something_else(beginning: bytes) -> str | None:
    """What a file is whose first bytes are those of something well known that is no checkpoint."""
    if beginning.startswith(b"version https://git-lfs.github.com/spec/"):
        size = next((line[5:20] for line in beginning.split(b"\n") if line.startswith(b"size ")), b"?")
        return (
            "a pointer of Git LFS and no checkpoint: it stands for a file of "
            f"{size.decode('ascii', 'replace')} bytes that was not fetched. Run git lfs pull where it lies, "
            "or download the file itself"
        )
    text = beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        return (
            "a web page that was saved under the name of a checkpoint: download the file itself (where a "
            "site shows a page about the file, its raw form)"
        )
    for magic, what in (
        (b"\x1f\x8b", "compressed by gzip: unpack it first"),
        (b"\x89HDF\r\n", "an HDF5 file, as Keras writes them, and holds no weights of PyTorch"),
        (b"\x93NUMPY", "an array of numpy, and no checkpoint"),
        (b"Rar!", "a RAR archive: unpack it first"),
        (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    ):
        if beginning.startswith(magic):
            return what
    return None


def _read_torch(file: BinaryIO, size: int, beginning: bytes) -> Any:
    described = _describe_zip(file, size) if beginning.startswith(b"PK") else _describe_legacy(file, size)
    if described.tensor_bytes > MAX_EXPANSION * size + _SLACK:
        raise Refused(f"its {size} bytes claim tensors of {described.tensor_bytes} bytes")
    file.seek(0)
    numbers = _numpy_numbers() if described.numpy_scalars else contextlib.nullcontext()
    with numbers, warnings.catch_warnings(action="ignore"):  # of torch about pickles that it then refuses
        return torch.load(file, map_location="cpu", weights_only=True)


def _describe_zip(file: BinaryIO, size: int) -> Description:
    """The checks of today's format: a zip archive of one pickle and a member for each storage."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = {member.filename: member.file_size for member in members}
        if len({name.lower() for name in names}) != len(members):
            raise Refused("it has two parts of one name")
        if any(name.endswith(".npy") for name in names):
            raise Refused("it is an archive of numpy arrays, and no checkpoint of PyTorch")
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Refused(f"it is an archive without the one data.pkl of a checkpoint ({_some(list(names))})")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in names:
            raise Refused(
                "it is a TorchScript archive, a program and no file of weights. Where it came from, or with "
                "torch.jit.load if you trust it: torch.save(module.state_dict(), 'weights.pt')"
            )
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise Refused("it is compressed, and a checkpoint is not: unpack it and look what is in it")
        if sum(member.file_size for member in members) > size or archive.comment:
            raise Refused(f"its parts claim more than its {size} bytes")
        if names[pickles[0]] > _MAX_PICKLE:
            raise Refused(f"its description has more than {_MAX_PICKLE} bytes")
        described = describe(io.BytesIO(archive.read(pickles[0])))
        for claim in described.storages.values():
            name = f"{folder}data/{claim.key}"
            has = names.get(name, 0)
            if claim.nbytes > has:
                raise Refused(f"its part {name} has {has} bytes and is said to have {claim.nbytes}")
    return described


def _describe_legacy(file: BinaryIO, size: int) -> Description:
    """The checks of the format before version 1.6: pickles one after the other, then the storages."""
    if describe(file).value != _LEGACY_MAGIC:
        raise Unreadable("it does not begin as a file of torch.save")
    for _ in range(2):  # version and system
        describe(file)
    described = describe(file)
    claimed = sum(claim.nbytes for claim in described.storages.values())
    if claimed > size:
        raise Refused(f"its {size} bytes claim {claimed} bytes of values")
    return described


def _numpy_numbers() -> contextlib.AbstractContextManager[Any]:
    """Lets numpy's numbers be read, which :mod:`circa_train.checkpoint.pickled` has looked at."""
    scalar: Any = np.float64(0).__reduce__()[0]
    names = [(scalar, name) for name in pickled.NUMPY_SCALARS]
    kinds = {type(np.dtype(kind)) for kind in pickled.NUMPY_KINDS}
    return torch.serialization.safe_globals([*names, np.dtype, *kinds])


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or is no safetensors file: {first_line(error)}") from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) or "it is empty"
