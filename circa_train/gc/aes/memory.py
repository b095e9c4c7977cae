"""Memory for blocks: it starts at cache lines, and is used again. New pages from the system would cost more
time than garbling into them.
"""

from __future__ import annotations

import math
import weakref

import numpy as np
from numpy.typing import NDArray

from circa_train.gc.aes.key_schedule import Blocks

#: Bytes of a cache line. A vector that lies in two of them costs two accesses.
_CACHE_LINE = 64

#: The most buffers that wait for their next use.
_SPARE = 8


def empty_bytes(count: int) -> NDArray[np.uint8]:
    """``count`` uninitialised bytes that start at a cache line."""
    return _from_line(np.empty(count + _CACHE_LINE, dtype=np.uint8), count)


def empty_blocks(shape: tuple[int, ...]) -> Blocks:
    """Uninitialised blocks, uint64 of this shape (..., 2), that start at a cache line."""
    return _as_blocks(empty_bytes(8 * math.prod(shape)), shape)


class MemoryPool:
    """Uninitialised arrays. Their memory is used again when the last array that views it is gone."""

    def __init__(self) -> None:
        self._spare: list[bytearray] = []

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """``count`` bytes that start at a cache line."""
        memory = self._take(count + _CACHE_LINE)
        # A view of a view refers to the first array over the bytearray. So that array lives until the last
        # view is gone.
        first = np.frombuffer(memory, dtype=np.uint8)
        weakref.finalize(first, self._give_back, memory).atexit = False
        return _from_line(first, count)

    def blocks(self, shape: tuple[int, ...]) -> Blocks:
        """Blocks, uint64 of this shape (..., 2), that start at a cache line."""
        return _as_blocks(self.bytes(8 * math.prod(shape)), shape)

    def _take(self, count: int) -> bytearray:
        """The memory that was used last, because it may still be in a cache. Other threads may give memory
        back meanwhile, which only appends to the list.
        """
        for position in reversed(range(len(self._spare))):
            if count <= len(self._spare[position]) <= 2 * count:
                return self._spare.pop(position)
        return bytearray(count)

    def _give_back(self, memory: bytearray) -> None:
        if len(self._spare) < _SPARE:
            self._spare.append(memory)


def _from_line(room: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    start = -room.ctypes.data % _CACHE_LINE
    return room[start : start + count]


def _as_blocks(data: NDArray[np.uint8], shape: tuple[int, ...]) -> Blocks:
    return data.view(np.uint64).reshape(shape)
