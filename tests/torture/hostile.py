"""Checkpoints that somebody made to do harm: to run code, to fill the memory, to keep a process busy.

:data:`MAKERS` writes one each; :func:`hostile_checkpoints` makes many and loads them in every way there is.
Each must be refused by a ``CheckpointError``, soon, and in little memory. A named error is the only success.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from circa_train.checkpoint import (
    CheckpointError,
    adopt_foreign,
    load_checkpoint,
    load_network,
)
from tests.torture.tally import Tally

NETWORK = {"name": "resnet8", "num_classes": 10, "image_size": 32, "width": 0.25}

#: Seconds and bytes that one file may take, whatever it claims.
PATIENCE, MEMORY = 10.0, 400 << 20

#: What code from a file would do if it ran: this variable would be set.
TRACE = "CIRCA_TRAIN_CODE_RAN"


class Code:
    """Unpickles to a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def archive(
    path: Path, pickled: bytes, storages: dict[str, bytes], compression: int = zipfile.ZIP_STORED
) -> None:
    """An archive as ``torch.save`` writes them, of any pickle and any storages."""
    with zipfile.ZipFile(path, "w", compression) as members:
        members.writestr("archive/data.pkl", pickled)
        members.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            members.writestr(f"archive/data/{key}", data)
        members.writestr("archive/version", "3\n")


def tensor_pickle(
    size: tuple[int, ...],
    stride: tuple[int, ...],
    elements: int,
    *,
    offset: int = 0,
    name: str = "w",
    kind: str = "FloatStorage",
    function: str = "_rebuild_tensor_v2",
) -> bytes:
    """The pickle of {name: one tensor} with any claims."""

    def number(value: int) -> bytes:
        if -(1 << 31) <= value < 1 << 31:
            return b"J" + struct.pack("<i", value)
        data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    storage = (
        b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text("0") + text("cpu") + number(elements)
    )
    sizes, strides = (b"(" + b"".join(map(number, part)) + b"t" for part in (size, stride))
    arguments = (
        b"(" + storage + b"tQ" + number(offset) + sizes + strides + b"\x89ccollections\nOrderedDict\n)Rt"
    )
    return b"\x80\x02}(" + text(name) + f"ctorch._utils\n{function}\n".encode() + arguments + b"Ru."


def huge_expanded(path: Path, rng: random.Random) -> None:
    """20 GB of one repeated float."""
    archive(path, tensor_pickle((5 * 10**9,), (0,), 1), {"0": bytes(4)})


def huge_storage(path: Path, rng: random.Random) -> None:
    """A storage that is said to have more bytes than it has: read beyond the end."""
    elements = rng.choice((2, 1 << 20, 5 * 10**9, 1 << 62))
    archive(path, tensor_pickle((elements,), (1,), elements), {"0": bytes(4)})


def no_storage(path: Path, rng: random.Random) -> None:
    """A storage that is not there."""
    archive(path, tensor_pickle((4,), (1,), 4), {})


def beyond_storage(path: Path, rng: random.Random) -> None:
    """A tensor that reaches beyond its storage, or begins before it."""
    size, stride, offset = rng.choice(
        (
            ((4,), (2,), 0),
            ((4,), (1,), 1),
            ((2, 2), (1 << 40, 1), 0),
            ((4,), (-1,), 3),
            ((4,), (1,), -1),
            ((-4,), (1,), 0),
        )
    )
    archive(path, tensor_pickle(size, stride, 4, offset=offset), {"0": bytes(16)})


def many_views(path: Path, rng: random.Random) -> None:
    """Thousands of tensors that are one and the same megabyte."""
    shared = torch.zeros(1 << 18)
    torch.save({f"w{i}": shared[:] for i in range(5_000)}, path)


def legacy_claim(path: Path, rng: random.Random) -> None:
    """The old format, whose storages are made before they are read."""
    file = io.BytesIO()
    torch.save({"w": torch.zeros(77)}, file, _use_new_zipfile_serialization=False)
    data = file.getvalue().replace(b"K\x4d", b"J\xff\xff\xff\x7f")
    path.write_bytes(data)


def bomb(path: Path, rng: random.Random) -> None:
    """A gigabyte of zeros, deflated to a megabyte."""
    elements = 1 << 24
    archive(
        path, tensor_pickle((elements,), (1,), elements), {"0": bytes(4 * elements)}, zipfile.ZIP_DEFLATED
    )


def overlapping(path: Path, rng: random.Random) -> None:
    """Many members of an archive that are the same bytes."""
    archive(path, tensor_pickle((1 << 18,), (1,), 1 << 18), {"0": bytes(1 << 20)})
    data = bytearray(path.read_bytes())
    end = data.rfind(b"PK\5\6")
    (count, length, start) = struct.unpack(
        "<xxxxxxxxH2xLL",
        bytes(data[end : end + 8]) + data[end + 8 : end + 10] + b"\0\0" + data[end + 12 : end + 20],
    )
    directory = bytes(data[start : start + length])
    entry = directory[directory.find(b"archive/data/0") - 46 :][: 46 + len("archive/data/0")]
    copies = b"".join(entry.replace(b"data/0", b"data/" + bytes([65 + i % 26])) for i in range(26))
    data[start:] = (
        directory
        + copies
        + struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, count + 26, count + 26, length + len(copies), start, 0)
    )
    path.write_bytes(data)


def recursive(path: Path, rng: random.Random) -> None:
    """A container that holds itself."""
    pickled = rng.choice(
        (
            b"\x80\x02]q\x00h\x00a.",
            b"\x80\x02}q\x00X\x01\x00\x00\x00wh\x00s.",
            b"\x80\x02}q\x00X\x0a\x00\x00\x00state_dicth\x00s.",
        )
    )
    archive(path, pickled, {})


def nested(path: Path, rng: random.Random) -> None:
    """A list in a list in a list, twenty thousand deep."""
    archive(path, b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".", {})


def doubling(path: Path, rng: random.Random) -> None:
    """Sixty lists, each of twice the one before: 2^60 values in 300 bytes."""
    archive(
        path,
        b"\x80\x02]q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b".",
        {},
    )


def allocating(path: Path, rng: random.Random) -> None:
    """Calls that torch allows, and that take memory."""
    call = rng.choice((Code(bytearray, 2 * 10**10), Code(torch.Tensor, 5 * 10**9), Code(torch.Size, (1, 2))))
    torch.save({"w": call, "v": torch.zeros(1)}, path)


def other_tensors(path: Path, rng: random.Random) -> None:
    """Tensors that are not dense real numbers on the CPU."""
    tensor = rng.choice(
        (
            torch.zeros(3).to_sparse(),
            torch.sparse_coo_tensor(torch.zeros(2, 0, dtype=torch.long), [], (1 << 40, 2)),
            torch.zeros(4, device="meta"),
            torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
            torch.zeros(3, 3).to_sparse_csr(),
        )
    )
    torch.save({"state_dict": {"conv1.weight": tensor}}, path)


def code(path: Path, rng: random.Random) -> None:
    """A call of what is no part of a checkpoint."""
    function, *arguments = rng.choice(
        (
            (os.putenv, TRACE, "1"),
            (os.system, f"touch {path}.ran"),
            (eval, f"open({str(path) + '.ran'!r}, 'w')"),
            (exec, "import os"),
            (getattr, torch.Tensor, "numpy"),  # a class: pickle writes no module
            (torch.hub.load, "a/b", "c"),
            (open, f"{path}.ran", "w"),
        )
    )
    content: Any = {"state_dict": {"w": Code(function, *arguments)}}
    match rng.randrange(3):
        case 0:
            torch.save(content, path)
        case 1:
            torch.save(content, path, _use_new_zipfile_serialization=False)
        case _:
            path.write_bytes(pickle.dumps(content, protocol=rng.randrange(6)))


def wrong_types(path: Path, rng: random.Random) -> None:
    """Our own format, its parts of other types, with a digest that fits or not."""
    content: dict[str, Any] = {
        "format": 1,
        "state_dict": {"w": torch.zeros(1)},
        "metadata": {},
        "training_state": None,
    }
    junk: list[Any] = [
        None,
        3,
        "x",
        [1],
        (),
        {1: 2},
        {"w": [torch.zeros(1)]},
        torch.zeros(2),
        1e300,
        True,
        {"w": None},
    ]
    name, value = rng.choice(
        [
            (name, value)
            for name in content
            for value in junk
            if (name, value is None) != ("training_state", True)
            and not (name in ("metadata", "training_state") and isinstance(value, dict))
        ]
    )
    content[name] = value
    from circa_train.checkpoint import digest

    content["sha256"] = rng.choice((digest(content), "x", None, torch.zeros(1)))
    torch.save(content, path)


def complex_weights(path: Path, rng: random.Random) -> None:
    """Weights with imaginary parts, or integers, where the network has reals."""
    from circa_train import build_model

    kind = rng.choice((torch.complex64, torch.int8, torch.bool))
    state = build_model(**NETWORK, seed=0).state_dict()
    torch.save(
        {name: value.to(kind) if value.is_floating_point() else value for name, value in state.items()}, path
    )


def giants(path: Path, rng: random.Random) -> None:
    """A few bytes of weights whose metadata ask for a network that would fill the memory."""
    absurd: dict[str, Any] = rng.choice(
        (
            {"num_classes": 10**12},
            {"num_classes": 10**5 + 1},
            {"width": 63.0, "name": "resnet18"},
            {"width": 1e300},
            {"width": float("inf")},
            {"width": -1.0},
            {"image_size": 10**9, "name": "vgg16"},
            {"in_channels": 10**9},
            {"num_classes": True},
            {"num_classes": "10"},
            {"width": "wide"},
            {"name": ["resnet8"]},
            {"name": 8},
            {"image_size": 2016, "name": "vgg16"},
            {"reduction": 3},
            {"reduction": {"masks": {"relu": 3}}},
            {"name": "torchvision:resnet18", "num_classes": 10**9},
            {"seed": 5},
        )
    )
    arguments = {**NETWORK, **absurd}
    if str(arguments["name"]).startswith("torchvision:"):
        del arguments["width"]
    text = json.dumps(arguments)
    content = {
        "format": 1,
        "state_dict": {"w": torch.zeros(1)},
        "metadata": {"model": json.loads(text)},
        "training_state": None,
    }
    from circa_train.checkpoint import digest

    content["sha256"] = digest(content)
    torch.save(content, path)


def something_else(path: Path, rng: random.Random) -> None:
    """Files that are no checkpoints at all."""
    text = rng.choice(
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            b"<!DOCTYPE html><html></html>",
            b"\n <HTML><body>404</body>",
            b"\x1f\x8b\x08" + bytes(50),
            b"\x93NUMPY\x01\x00",
            b"",
            b"PK",
            b"PK\3\4",
            b"PK\5\6" + bytes(18),
            b"Not Found",
            b'{"error": "x"}',
            bytes(100),
            b"\x80\x02.",
            b"\x80\x02l.",
            b"\x89HDF\r\n\x1a\n",
            rng.randbytes(rng.randrange(2000)),
            b"\x80\x02" + rng.randbytes(200),
        )
    )
    path.write_bytes(text)


def safetensors_claims(path: Path, rng: random.Random) -> None:
    """A header of safetensors that claims what is not there; at the name of such a file."""
    entry = {"dtype": "F32", "shape": [5 * 10**9], "data_offsets": [0, 2 * 10**10]}
    header = json.dumps(
        {"w": rng.choice((entry, {**entry, "data_offsets": [0, 4]}, {**entry, "dtype": "X"}, 3))}
    ).encode()
    length = rng.choice((len(header), 1 << 62, 1 << 30))
    path.write_bytes(struct.pack("<Q", length) + header + bytes(4))


MAKERS: dict[str, Callable[[Path, random.Random], None]] = {
    maker.__name__: maker
    for maker in (
        huge_expanded,
        huge_storage,
        no_storage,
        beyond_storage,
        many_views,
        legacy_claim,
        bomb,
        overlapping,
        recursive,
        nested,
        doubling,
        allocating,
        other_tensors,
        code,
        wrong_types,
        complex_weights,
        giants,
        something_else,
        safetensors_claims,
    )
}

LOADERS: dict[str, Callable[[Path], Any]] = {
    "load_checkpoint": load_checkpoint,
    "load_network": load_network,
    "adopt_foreign": lambda path: adopt_foreign(path, model=NETWORK),
}


def hostile_checkpoints(count: int, seed: int, folder: Path, makers: dict[str, Any] = MAKERS) -> Tally:
    """``count`` hostile files, each loaded in every way."""
    rng, tally = random.Random(seed), Tally()
    folder.mkdir(parents=True, exist_ok=True)
    names = list(makers)
    for number in range(count):
        name = names[number % len(names)]
        path = folder / f"{number}{'.safetensors' if name.startswith('safetensors') else '.pt'}"
        makers[name](path, rng)
        tally.counts["hostile inputs"] += 1
        for loader, load in LOADERS.items():
            if loader == "load_checkpoint" and name == "giants":
                continue  # the file is whole; it is its network that cannot be
            what = f"seed {seed}, number {number}, {name} by {loader}"
            before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
            try:
                load(path)
            except CheckpointError as error:
                tally.outcomes[f"{name}: {str(error).replace(str(path), '')[:60]}"] += 1
            except Exception as error:
                tally.raised.append(f"{what}: {error!r}")
            else:
                tally.wrong.append(f"{what}: accepted")
            if time.monotonic() - started > PATIENCE:
                tally.hung.append(f"{what}: {time.monotonic() - started:.1f} s")
            if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 > MEMORY:
                tally.wrong.append(f"{what}: took more than {MEMORY >> 20} MiB")
        if os.environ.get(TRACE) or Path(f"{path}.ran").exists():
            tally.wrong.append(f"seed {seed}, number {number}, {name}: code ran")
        path.unlink()
    return tally
