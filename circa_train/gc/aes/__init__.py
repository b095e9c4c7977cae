"""The hash that garbling rests on, and the engines that run whole circuits through it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.gc.aes.engines import available_kernels, make_kernel
    from circa_train.gc.aes.hashing import Kernel, to_field
    from circa_train.gc.aes.key_schedule import BLOCK_BYTES, KEY_BYTES, Blocks
    from circa_train.gc.aes.memory import MemoryPool
    from circa_train.gc.aes.randomness import OneProcess, Randomness, Seed

__all__ = [
    "BLOCK_BYTES",
    "KEY_BYTES",
    "Blocks",
    "Kernel",
    "MemoryPool",
    "OneProcess",
    "Randomness",
    "Seed",
    "available_kernels",
    "make_kernel",
    "to_field",
]

_HOMES = {
    "BLOCK_BYTES": "key_schedule",
    "KEY_BYTES": "key_schedule",
    "Blocks": "key_schedule",
    "Kernel": "hashing",
    "MemoryPool": "memory",
    "OneProcess": "randomness",
    "Randomness": "randomness",
    "Seed": "randomness",
    "available_kernels": "engines",
    "make_kernel": "engines",
    "to_field": "hashing",
}
__getattr__, __dir__ = face(__name__, _HOMES)
