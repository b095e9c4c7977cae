"""What a party keeps between the phases, on the disk, to be used once.

A store is one file of records; each is a message (:mod:`circa_train.gc.protocol.messages`) whose session is
the store's number and which counts its place, so a record that is damaged, missing or of another store is
found before it is used. The file gets its name when it is complete. Whoever opens it for use first leaves a
mark of that number in ``spent``, which stays, and then takes the file's name away: a store that was used, or
copied back after it was used, is refused. Labels for two inputs, or one mask over two values, would reveal
them.

The marks are in the folder of the stores. Whoever restores all of it, marks included, is stopped by the other
party, which has marks of its own.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from circa_train.files import write_file
from circa_train.gc.aes import MemoryPool
from circa_train.gc.protocol import Due, Message, MessageKind

#: A record of a store: names, types and shapes of its arrays.
Layout = Sequence[tuple[str, str, tuple[int, ...]]]
Arrays = dict[str, NDArray[Any]]

NUMBER_BYTES = 16

_LENGTH = struct.Struct("<Q")

#: The first record, in JSON.
_LARGEST_HEADER = 1 << 20


class StoreError(ValueError):
    """A store that is damaged, was used, or belongs to something else."""


def size_of(layout: Layout) -> int:
    """Bytes of a record."""
    return sum(np.dtype(kind).itemsize * int(np.prod(shape)) for _, kind, shape in layout)


def pack(layout: Layout, arrays: Arrays) -> NDArray[np.uint8]:
    """The arrays of a record behind one another. Inverse of :func:`unpack`."""
    parts = []
    for name, kind, shape in layout:
        array = np.asarray(arrays[name])
        if array.shape != shape:
            raise ValueError(f"{name} has the shape {array.shape} instead of {shape}")
        parts.append(np.ascontiguousarray(array, dtype=kind).reshape(-1).view(np.uint8))
    return np.concatenate(parts) if parts else np.empty(0, np.uint8)


def words_layout(name: str, shape: tuple[int, ...]) -> Layout:
    """A record of field elements."""
    return ((name, "<u4", shape),)


def unpack(layout: Layout, payload: NDArray[np.uint8]) -> Arrays:
    """The arrays of a record, as views."""
    found: Arrays = {}
    start = 0
    for name, kind, shape in layout:
        stop = start + np.dtype(kind).itemsize * int(np.prod(shape))
        found[name] = payload[start:stop].view(kind).reshape(shape)
        start = stop
    return found


class Writer:
    """Fills a store, record by record."""

    def __init__(self, file: BinaryIO, number: bytes) -> None:
        self._file, self._number, self._records = file, number, 0

    def put(self, layout: Layout, arrays: Arrays) -> None:
        """Add a record."""
        self._write(pack(layout, arrays))

    def put_value(self, value: Any) -> None:
        """Add a record of JSON."""
        self._write(np.frombuffer(json.dumps(value).encode(), dtype=np.uint8))

    def _write(self, payload: NDArray[np.uint8]) -> None:
        message = Message(MessageKind.RECORD, payload)
        head, body = message.to_parts(session=self._number, number=self._records)
        self._file.write(_LENGTH.pack(len(head) + len(body)) + head)
        self._file.write(body)
        self._records += 1


class Reader:
    """Gives the records of a store back, in their order. The memory of a record is used again when its
    arrays are gone.
    """

    def __init__(self, file: BinaryIO, number: bytes) -> None:
        self._file, self._number, self._records = file, number, 0
        self._memory = MemoryPool()

    def take(self, layout: Layout) -> Arrays:
        """The next record; a StoreError if it is damaged or another."""
        size = size_of(layout)
        message = self._read(size)
        try:
            Due(MessageKind.RECORD, size).check(message)
        except ValueError as error:
            raise StoreError(f"record {self._records} of a store is of something else: {error}") from error
        return unpack(layout, message.payload)

    def take_value(self) -> Any:
        """The next record, which is JSON."""
        return json.loads(self._read(_LARGEST_HEADER).payload.tobytes())

    def _read(self, largest: int) -> Message:
        beginning = self._file.read(_LENGTH.size)
        length = _LENGTH.unpack(beginning)[0] if len(beginning) == _LENGTH.size else -1
        if not 0 <= length <= largest + 4096:
            raise StoreError(f"record {self._records} of a store is cut off or damaged")
        room = self._memory.bytes(length)
        if self._file.readinto(room.data) != length:  # type: ignore[attr-defined]
            raise StoreError(f"record {self._records} of a store is cut off")
        try:
            message = Message.from_bytes(room.data, session=self._number, number=self._records)
        except ValueError as error:
            raise StoreError(f"record {self._records} of a store is damaged: {error}") from error
        self._records += 1
        return message


class Stores:
    """The stores of one party, in one folder.

    Args:
        folder: made if it is missing; readable by its owner alone.
        role: ``server`` or ``client``; both may use one folder.
    """

    def __init__(self, folder: str | os.PathLike[str], role: str) -> None:
        self._folder, self._role = Path(folder), role
        self._spent.mkdir(parents=True, exist_ok=True)
        os.chmod(self._folder, 0o700)

    @property
    def _spent(self) -> Path:
        return self._folder / f"spent-{self._role}"

    def path(self, number: bytes) -> Path:
        """The file of a store."""
        return self._folder / f"{number.hex()}.{self._role}"

    def make(self, number: bytes, about: dict[str, Any], fill: Callable[[Writer], None]) -> None:
        """Write a store: ``about`` says what it belongs to; ``fill`` adds the records.

        Raises:
            StoreError: if there was one of this number.
        """
        if self.path(number).exists() or (self._spent / number.hex()).exists():
            raise StoreError(f"there is a store {number.hex()} already")

        def write(file: BinaryIO) -> None:
            os.chmod(file.fileno(), 0o600)
            writer = Writer(file, number)
            writer.put_value(about)
            fill(writer)
            writer.put_value("end")

        write_file(self.path(number), write)

    @contextmanager
    def use(self, number: bytes, about: dict[str, Any]) -> Iterator[Reader]:
        """Open a store, which from now on is spent.

        Raises:
            StoreError: if there is none of this number, it was used, it is damaged, or it is about something
                else.
        """
        path = self.path(number)
        try:
            file = path.open("rb")
        except FileNotFoundError:
            known = (self._spent / number.hex()).exists()
            raise StoreError(
                f"store {number.hex()} was used; every store serves one inference"
                if known
                else f"there is no store {number.hex()}: prepare an inference first"
            ) from None
        with file:
            reader = Reader(file, number)
            found = reader.take_value()
            if found != about:
                differs = [key for key in about if found.get(key) != about[key]]
                raise StoreError(
                    f"store {number.hex()} was made for something else: {', '.join(differs)} differ"
                )
            self._check_end(file, number)
            self._mark(number)
            path.unlink()
            yield reader

    def _mark(self, number: bytes) -> None:
        try:
            descriptor = os.open(self._spent / number.hex(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise StoreError(
                f"store {number.hex()} was used and copied back; every store serves one inference"
            ) from None
        os.fsync(descriptor)
        os.close(descriptor)
        folder = os.open(self._spent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    @staticmethod
    def _check_end(file: BinaryIO, number: bytes) -> None:
        """A store that was cut off is found before anything of it is used."""
        place = file.tell()
        payload = json.dumps("end").encode()
        length = len(Message(MessageKind.RECORD, np.frombuffer(payload, np.uint8)).to_bytes())
        file.seek(-min(length + _LENGTH.size, place), os.SEEK_END)
        end = file.read()
        if end[: _LENGTH.size] != _LENGTH.pack(length) or not end.endswith(payload):
            raise StoreError(f"store {number.hex()} is half written or cut off")
        file.seek(place)
