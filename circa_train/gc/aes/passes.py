"""The compiled passes of :mod:`circa_train.gc.aes.engine_numba`: loops over groups of instances.

A *group* is the instances that the vector registers hold at once. A *tile* is the instances that go through
the whole circuit before the next tile begins. The last group or tile may begin earlier than the one before it
ends. Then some instances are done twice, with the same result, and no second loop is needed for the rest. So
there must be at least :data:`GROUP` instances, in arrays that share no memory.

An array that may be a read-only view of a message is passed by its byte address (``uintp``): for numba a
read-only array is another type, and the pass would be compiled once more. Compiled code is not kept on disk:
numba would notice a change of this file, but not one of :mod:`circa_train.gc.aes.lanes`, and old code would
give wrong bytes.
"""

# Functions under @njit are typed by numba when they are compiled, not by annotations.
from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit

from circa_train.gc.aes.key_schedule import BLOCK_BYTES
from circa_train.gc.aes.lanes import (
    blocks_of,
    broadcast,
    colour_mask,
    count_high,
    count_low,
    encrypt,
    first_half,
    join,
    load,
    mask,
    schedule,
    second_half,
    store,
    xor,
)
from circa_train.gc.circuits.circuit import Op

#: Instances that every pass needs at least; every group divides it.
GROUP = 16
_XOR, _NOT = int(Op.XOR), int(Op.NOT)
_BLOCK = np.uint64(BLOCK_BYTES)
_ZERO, _ONE, _TWO = np.uint64(0), np.uint64(1), np.uint64(2)
_DIGIT, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


class Passes(NamedTuple):
    """The entry points for one vector width; numba compiles each at its first call."""

    encrypt: Callable[..., None]
    counters: Callable[..., None]
    tccr_hash: Callable[..., None]
    activate: Callable[..., None]
    project: Callable[..., None]
    take_share: Callable[..., None]
    garble: Callable[..., None]
    evaluate: Callable[..., None]


@njit(forceinline=True)
def _hash(x, tweaks, keys):
    """TMMO, see :mod:`circa_train.gc.aes.hashing`."""
    inner = encrypt(x, keys)
    return xor(encrypt(xor(inner, tweaks), keys), inner)


@njit(forceinline=True)
def _garble_and(a, b, offset, number, instance, keys):
    """(generator half, evaluator half, false-label of the result)"""
    tweaks = join(count_high(_TWO * number, instance, a), count_high(_TWO * number + _ONE, instance, a))
    both, offsets = join(a, b), join(offset, offset)
    hashes = _hash(join(both, xor(both, offsets)), join(tweaks, tweaks), keys)
    if_false = first_half(hashes)
    differences = xor(if_false, second_half(hashes))
    generator = xor(first_half(differences), mask(colour_mask(b), offset))
    evaluator = xor(second_half(differences), a)
    of_a = xor(first_half(if_false), mask(colour_mask(a), generator))
    of_b = xor(second_half(if_false), mask(colour_mask(b), xor(evaluator, a)))
    return generator, evaluator, xor(of_a, of_b)


@njit(forceinline=True)
def _evaluate_and(a, b, generator, evaluator, number, instance, keys):
    """The active label of the result."""
    tweaks = join(count_high(_TWO * number, instance, a), count_high(_TWO * number + _ONE, instance, a))
    hashes = _hash(join(a, b), tweaks, keys)
    of_a = xor(first_half(hashes), mask(colour_mask(a), generator))
    of_b = xor(second_half(hashes), mask(colour_mask(b), xor(evaluator, a)))
    return xor(of_a, of_b)


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
def _next(at, size, step):
    """Where the next group or tile starts, after the one at ``at``; ``size`` if that was the last."""
    following = at + step
    return min(following, size - step) if following < size else size


@njit(forceinline=True)
def _rows_from(bases, address, row_bytes):
    """Write the addresses of registers that lie one after the other."""
    for position in range(len(bases)):
        bases[position] = address + np.uint64(position) * row_bytes


@njit(forceinline=True)
def _place(bases, strides, register, start):
    """The address of a register's tile that begins with instance ``start``."""
    return bases[register] + start * strides[register]


@cache
def compiled_passes(width: int) -> Passes:
    """The passes for vectors of ``width`` blocks: 1, 2 or 4."""
    # How many vectors go through the rounds together. A round takes four cycles, and two can start in each,
    # so eight are needed that none waits for the one before it; of 512 bits one can start in a cycle.
    together = 4 if width == 4 else 8

    @njit(nogil=True)
    def encrypt_blocks(source, target, keys):
        like, to, blocks = (
            broadcast(keys.ctypes.data, width, together),
            target.ctypes.data,
            np.uint64(len(target)),
        )
        round_keys, group = schedule(keys.ctypes.data, like), blocks_of(like)
        at = _ZERO
        while at < blocks:
            store(to + at * _BLOCK, encrypt(load(source + at * _BLOCK, like), round_keys))
            at = _next(at, blocks, group)

    @njit(nogil=True)
    def counters(first, target, keys):
        like, to, blocks = (
            broadcast(keys.ctypes.data, width, together),
            target.ctypes.data,
            np.uint64(len(target)),
        )
        round_keys, group = schedule(keys.ctypes.data, like), blocks_of(like)
        at = _ZERO
        while at < blocks:
            store(to + at * _BLOCK, encrypt(count_low(first + at, _ZERO, like), round_keys))
            at = _next(at, blocks, group)

    @njit(nogil=True)
    def tccr_hash(source, offset, target, tweak, first_instance, keys):
        """The hashes of the labels at ``source``, each xor ``offset``."""
        like, to, blocks = (
            broadcast(offset.ctypes.data, width, together),
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
            store(to + at * _BLOCK, _hash(labels, tweaks, round_keys))
            at = _next(at, blocks, group)

    @njit(nogil=True)
    def activate(false_labels, bits, offset, active):
        # Flat, and the offset in registers: otherwise the compiler reads it again for every label.
        source, target, chosen = false_labels.reshape(-1), active.reshape(-1), bits.reshape(-1)
        low, high = offset[0], offset[1]
        for i in range(len(chosen)):
            moved = _ZERO - np.uint64(chosen[i])
            target[2 * i] = source[2 * i] ^ (low & moved)
            target[2 * i + 1] = source[2 * i + 1] ^ (high & moved)

    @njit(nogil=True)
    def project(labels, offset, tweak, first_instance, prime, words, shares, keys):
        if_false, if_true = np.empty_like(labels), np.empty_like(labels)
        tccr_hash(labels.ctypes.data, np.zeros_like(offset), if_false, tweak, first_instance, keys)
        tccr_hash(labels.ctypes.data, offset, if_true, tweak, first_instance, keys)
        for i in range(len(words)):
            false_mask, true_mask = _to_field(if_false[i], prime), _to_field(if_true[i], prime)
            colour = np.int64(labels[i, 0] & _ONE)
            words[i] = _wrapped((1 - 2 * colour) * (false_mask + 1 - true_mask), prime)
            shares[i] = _wrapped(colour - false_mask + colour * (false_mask - true_mask), prime)

    @njit(nogil=True)
    def take_share(labels, words, tweak, first_instance, prime, shares, keys):
        hashes = np.empty_like(labels)
        tccr_hash(labels.ctypes.data, np.zeros(2, dtype=np.uint64), hashes, tweak, first_instance, keys)
        for i in range(len(words)):
            colour = np.int64(labels[i, 0] & _ONE)
            shares[i] = _wrapped(
                _to_field(hashes[i], prime) + colour * np.int64(words[i]) - np.int64(prime), prime
            )

    garble = _tape_pass(width, together // 4, True)
    evaluate = _tape_pass(width, together // 2, False)
    return Passes(encrypt_blocks, counters, tccr_hash, activate, project, take_share, garble, evaluate)


def _tape_pass(width: int, count: int, garbling: bool) -> Callable[..., None]:
    """Garble or evaluate a :class:`~circa_train.gc.aes.fusion.FusedCircuit`, ``count`` vectors of ``width``
    blocks at a time.

    The compiled function takes the rows of the circuit; then its registers: the garbler's and the evaluator's
    input labels, by address and number, the outputs, and one tile of the zeros and of each scratch register;
    the offset (zero when evaluating, because a NOT does not change the evaluator's label); the address of the
    tables; how many instances there are, and the number of the first; and the key schedule.
    """

    @njit(nogil=True)
    def run(
        rows,
        garbler,
        garblers,
        evaluator,
        evaluators,
        outputs,
        scratch,
        offset,
        tables,
        instances,
        first_instance,
        keys,
    ):
        tile, row_bytes, inputs = np.uint64(scratch.shape[1]), instances * _BLOCK, garblers + evaluators
        scratch_from = inputs + len(outputs)
        bases = np.empty(scratch_from + len(scratch), dtype=np.uint64)
        strides = np.full(len(bases), _BLOCK)
        strides[scratch_from:] = _ZERO
        _rows_from(bases[:garblers], garbler, row_bytes)
        _rows_from(bases[garblers:inputs], evaluator, row_bytes)
        _rows_from(bases[inputs:scratch_from], outputs.ctypes.data, row_bytes)
        _rows_from(bases[scratch_from:], scratch.ctypes.data, tile * _BLOCK)

        like = broadcast(offset.ctypes.data, width, count)
        round_keys, group = schedule(keys.ctypes.data, like), blocks_of(like) * _BLOCK
        size, start = tile * _BLOCK, _ZERO
        while start < instances:
            for row in rows:
                a, also_a = _place(bases, strides, row[1], start), _place(bases, strides, row[2], start)
                b, also_b = _place(bases, strides, row[3], start), _place(bases, strides, row[4], start)
                c, result = _place(bases, strides, row[5], start), _place(bases, strides, row[6], start)
                number, at = np.uint64(row[7]), _ZERO
                if row[0] == _XOR:
                    while at < size:
                        store(result + at, xor(load(a + at, like), load(also_a + at, like)))
                        at += group
                elif row[0] == _NOT:
                    while at < size:
                        store(result + at, xor(load(a + at, like), like))
                        at += group
                else:
                    table = tables + start * _BLOCK + _TWO * number * row_bytes
                    while at < size:
                        instance = first_instance + start + at // _BLOCK
                        left = xor(load(a + at, like), load(also_a + at, like))
                        right = xor(load(b + at, like), load(also_b + at, like))
                        if garbling:
                            generator, evaluator, label = _garble_and(
                                left, right, like, number, instance, round_keys
                            )
                            store(table + at, generator)
                            store(table + row_bytes + at, evaluator)
                        else:
                            generator, evaluator = load(table + at, like), load(table + row_bytes + at, like)
                            label = _evaluate_and(
                                left, right, generator, evaluator, number, instance, round_keys
                            )
                        store(result + at, xor(load(c + at, like), label))
                        at += group
            start = _next(start, instances, tile)

    compiled: Callable[..., None] = run
    return compiled
