"""Passes over blocks, to be compiled: AES, hashes, labels, projections, and the transposition of bits.

Each function here makes one pass for a width of vectors, in blocks: 1, 2 or 4
(:mod:`circa_train.gc.aes.compiled` compiles it). A *group* is the instances that the vector registers hold at
once. The last group may begin earlier than the one before it ends. Then some instances are done twice, with
the same result, and no second loop is needed for the rest. So there must be at least :data:`GROUP` instances,
in arrays that share no memory.

An array that may be a read-only view of a message, at any place in memory, is passed by its byte address
(``uintp``).
"""

# Functions under @njit are typed by numba when they are compiled, not by annotations.
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit

from circa_train.gc.aes.key_schedule import BLOCK_BYTES
from circa_train.gc.aes.lanes import (
    blocks_of,
    broadcast,
    count_high,
    count_low,
    load,
    schedule,
    store,
    xor,
)
from circa_train.gc.aes.lanes import encrypt as _aes

#: Instances that every pass needs at least; every group divides it.
GROUP = 16
#: Bytes of a column that are transposed at once.
_PIECE = 64
_BLOCK = np.uint64(BLOCK_BYTES)
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_DIGIT, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@njit(forceinline=True)
def hash_labels(x, tweaks, keys):
    """TMMO, see :mod:`circa_train.gc.aes.hashing`."""
    inner = _aes(x, keys)
    return xor(_aes(xor(inner, tweaks), keys), inner)


@njit(forceinline=True)
def _to_field(block, prime):
    """:func:`circa_train.gc.aes.hashing.to_field` of one block."""
    carry = ((block[0] & _DIGIT) * prime) >> _HALF
    carry = ((block[0] >> _HALF) * prime + carry) >> _HALF
    carry = ((block[1] & _DIGIT) * prime + carry) >> _HALF
    return np.int64(((block[1] >> _HALF) * prime + carry) >> _HALF)


@njit(forceinline=True)
def _wrapped(value, prime):
    """The representative in [0, p) of a value of [-p, p]."""
    if value < 0:
        value += np.int64(prime)
    return value - np.int64(prime) if value == prime else value


@njit(forceinline=True)
def next_start(at, size, step):
    """Where the next group (or tile) starts, after the one at ``at``; ``size`` if that was the last."""
    following = at + step
    return min(following, size - step) if following < size else size


def together(width: int) -> int:
    """How many vectors go through the rounds together. A round takes four cycles, and two can start in each,
    so eight are needed that none waits for the one before it; of 512 bits one can start in a cycle.
    """
    return 4 if width == 4 else 8


def encrypt(width: int, sources: str) -> Callable[..., None]:
    """AES of the blocks at address ``source``, written to ``target``."""
    count = together(width)

    def run(source, target, keys):
        sources  # noqa: B018 - numba's key has the values that a closure uses
        like, to, blocks = (
            broadcast(keys.ctypes.data, width, count),
            target.ctypes.data,
            np.uint64(len(target)),
        )
        round_keys, group = schedule(keys.ctypes.data, like), blocks_of(like)
        at = _ZERO
        while at < blocks:
            store(to + at * _BLOCK, _aes(load(source + at * _BLOCK, like), round_keys))
            at = next_start(at, blocks, group)

    return run


def counters(width: int, sources: str) -> Callable[..., None]:
    """AES of the numbers from ``first`` on, written to ``target``."""
    count = together(width)

    def run(first, target, keys):
        sources  # noqa: B018
        like, to, blocks = (
            broadcast(keys.ctypes.data, width, count),
            target.ctypes.data,
            np.uint64(len(target)),
        )
        round_keys, group = schedule(keys.ctypes.data, like), blocks_of(like)
        at = _ZERO
        while at < blocks:
            store(to + at * _BLOCK, _aes(count_low(first + at, _ZERO, like), round_keys))
            at = next_start(at, blocks, group)

    return run


def tccr_hash(width: int, sources: str) -> Callable[..., None]:
    """The hashes of the labels at address ``source``, each xor ``offset``, written to ``target``."""
    count = together(width)

    def run(source, offset, target, tweak, first_instance, keys):
        sources  # noqa: B018
        like, to, blocks = (
            broadcast(offset.ctypes.data, width, count),
            target.ctypes.data,
            np.uint64(len(target)),
        )
        round_keys, group = schedule(keys.ctypes.data, like), blocks_of(like)
        at = _ZERO
        while at < blocks:
            labels, tweaks = (
                xor(load(source + at * _BLOCK, like), like),
                count_high(tweak, first_instance + at, like),
            )
            store(to + at * _BLOCK, hash_labels(labels, tweaks, round_keys))
            at = next_start(at, blocks, group)

    return run


def activate(width: int, sources: str) -> Callable[..., None]:
    """Active labels from false-labels, both as flat arrays of words, and bits."""

    def run(source, chosen, offset, target):
        sources  # noqa: B018
        # the offset in registers: otherwise the compiler reads it again for every label
        low, high = offset[0], offset[1]
        for i in range(len(chosen)):
            moved = _ZERO - np.uint64(chosen[i])
            target[2 * i] = source[2 * i] ^ (low & moved)
            target[2 * i + 1] = source[2 * i + 1] ^ (high & moved)

    return run


def project(width: int, sources: str) -> Callable[..., None]:
    """Projection words and the garbler's shares, from false-labels and the hashes of both labels."""

    def run(labels, if_false, if_true, prime, words, shares):
        sources  # noqa: B018
        for i in range(len(words)):
            false_mask, true_mask = _to_field(if_false[i], prime), _to_field(if_true[i], prime)
            colour = np.int64(labels[i, 0] & _ONE)
            words[i] = _wrapped((1 - 2 * colour) * (false_mask + 1 - true_mask), prime)
            shares[i] = _wrapped(colour - false_mask + colour * (false_mask - true_mask), prime)

    return run


def take_share(width: int, sources: str) -> Callable[..., None]:
    """The evaluator's shares, from its labels, their hashes, and the projection words."""

    def run(labels, hashes, words, prime, shares):
        sources  # noqa: B018
        for i in range(len(words)):
            colour = np.int64(labels[i, 0] & _ONE)
            shares[i] = _wrapped(
                _to_field(hashes[i], prime) + colour * np.int64(words[i]) - np.int64(prime), prime
            )

    return run


@njit(forceinline=True)
def _transposed(bits):
    """The 8x8 bits of a word transposed, by three exchanges of ever larger squares across the diagonal."""
    for distance, upper in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
        exchanged = ((bits >> np.uint64(distance)) ^ bits) & np.uint64(upper)
        bits = bits ^ exchanged ^ (exchanged << np.uint64(distance))
    return bits


def transpose(width: int, sources: str) -> Callable[..., None]:
    """The bit matrix ``columns``, uint8 (128, n), transposed to ``rows``, uint8 (n, 8, 16)."""

    def run(columns, rows):
        sources  # noqa: B018
        count, byte_bits = columns.shape[1], np.uint64(8)
        for start in range(0, count, _PIECE):  # its rows stay in the first-level cache
            for byte in range(BLOCK_BYTES):
                for place in range(start, min(start + _PIECE, count)):
                    bits = _ZERO
                    for i in range(8):
                        bits |= np.uint64(columns[8 * byte + i, place]) << (byte_bits * np.uint64(i))
                    bits = _transposed(bits)
                    for i in range(8):
                        rows[place, i, byte] = np.uint8(bits >> (byte_bits * np.uint64(i)))

    return run
