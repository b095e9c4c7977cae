"""Where secrets come from: AES in counter mode. The key is from the operating system, or from a seed.

With a seed a whole run can be repeated byte for byte. That is for tests and debugging only: anyone who knows
the seed knows every secret.

Two processes must never use one stream. After a fork, both would draw the same labels, pads and triples for
different inputs, and that would reveal the inputs. So each object with such a stream also has a
:class:`OneProcess`, which refuses in the child process.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np

from circa_train.gc.aes.engines import make_kernel
from circa_train.gc.aes.key_schedule import KEY_BYTES, Blocks

Seed = int | bytes | None

_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):  # elsewhere there is no fork
    os.register_at_fork(after_in_child=_count_fork)


class OneProcess:
    """Refuses to be used after a fork. For objects that must not be used in both processes.

    It counts forks and does not compare process numbers, because the system uses those again.

    Args:
        what: how the error calls the object.
    """

    def __init__(self, what: str) -> None:
        self._what, self._forks = what, _forks

    def check(self) -> None:
        """Raise RuntimeError if this process was forked after this object was made."""
        if self._forks != _forks:
            raise RuntimeError(
                f"{self._what} was made before this process was forked, and both processes would draw the "
                "same secrets from it: make it in the process that uses it"
            )

    def __reduce__(self) -> tuple[type[OneProcess], tuple[str]]:
        return OneProcess, (self._what,)  # pickling it for another process is no accident, as a fork may be


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
        self._here = OneProcess("a generator of secrets")
        self._kernel_name = kernel
        self._kernel = make_kernel(self.secret("stream")[:KEY_BYTES], kernel)
        self._next_block = 0

    def child(self, purpose: str) -> Randomness:
        """An independent generator; the same purpose gives the same child."""
        self._here.check()
        return Randomness(self._root, purpose, self._kernel_name)

    def secret(self, purpose: str) -> bytes:
        """64 bytes for one purpose, independent of the stream of blocks."""
        self._here.check()
        return hashlib.sha512(self._root + purpose.encode()).digest()

    def fill(self, out: Blocks) -> None:
        """Overwrite a contiguous uint64 array (..., 2) with the next pseudorandom blocks."""
        self._here.check()
        self._kernel.counters(self._next_block, out)
        self._next_block += out.size // 2

    def blocks(self, count: int) -> Blocks:
        """The next ``count`` blocks, uint64 (count, 2)."""
        out = np.empty((count, 2), dtype=np.uint64)
        self.fill(out)
        return out
