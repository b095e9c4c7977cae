"""Where secrets come from: AES in counter mode under keys of the operating system, or of a seed for a replay.

A seed makes a whole run repeatable byte for byte, which is for tests, replays and debugging only: whoever
knows the seed knows every secret.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np

from circa_train.gc.aes.engines import make_kernel
from circa_train.gc.aes.key_schedule import KEY_BYTES, Blocks

Seed = int | bytes | None


class Randomness:
    """A tree of independent streams: one root, a child for every purpose.

    Args:
        seed: None for 32 bytes from the operating system; an int or bytes for a repeatable run.
        purpose: what the stream is for; different purposes under one seed are independent.
    """

    def __init__(self, seed: Seed = None, purpose: str = "", kernel: str = "auto") -> None:
        if seed is None:
            root = os.urandom(32)
        elif isinstance(seed, bytes):
            root = seed
        elif isinstance(seed, int) and not isinstance(seed, bool):
            root = repr(seed).encode()
        else:
            raise TypeError(f"seed must be None, an int or bytes, got {seed!r}")
        self._root = hashlib.sha256(b"circa_train/" + purpose.encode() + b"/" + root).digest()
        self._kernel_name = kernel
        self._kernel = make_kernel(self.secret("stream")[:KEY_BYTES], kernel)
        self._next_block = 0

    def child(self, purpose: str) -> Randomness:
        """An independent generator; the same purpose gives the same child."""
        return Randomness(self._root, purpose, self._kernel_name)

    def secret(self, purpose: str) -> bytes:
        """64 bytes for one purpose, independent of the stream of blocks."""
        return hashlib.sha512(self._root + purpose.encode()).digest()

    def fill(self, out: Blocks) -> None:
        """Overwrite a contiguous uint64 array (..., 2) with the next pseudorandom blocks."""
        self._kernel.counters(self._next_block, out)
        self._next_block += out.size // 2

    def blocks(self, count: int) -> Blocks:
        """The next ``count`` blocks, uint64 (count, 2)."""
        out = np.empty((count, 2), dtype=np.uint64)
        self.fill(out)
        return out
