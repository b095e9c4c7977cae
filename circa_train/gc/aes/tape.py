"""Garbling and evaluating, to be compiled: one pass over a whole circuit, a tile of instances at a time.

A *tile* is the instances that go through the whole circuit before the next tile begins; what is said of
groups in :mod:`circa_train.gc.aes.passes` holds for tiles as well.
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
    colour_mask,
    count_high,
    first_half,
    join,
    load,
    mask,
    schedule,
    second_half,
    store,
    xor,
)
from circa_train.gc.aes.passes import hash_labels, next_start, together
from circa_train.gc.circuits.circuit import Op

_XOR, _NOT = int(Op.XOR), int(Op.NOT)
_BLOCK = np.uint64(BLOCK_BYTES)
_ZERO, _ONE, _TWO = np.uint64(0), np.uint64(1), np.uint64(2)


@njit(forceinline=True)
def _garble_and(a, b, offset, number, instance, keys):
    """(generator half, evaluator half, false-label of the result)"""
    tweaks = join(count_high(_TWO * number, instance, a), count_high(_TWO * number + _ONE, instance, a))
    both, offsets = join(a, b), join(offset, offset)
    hashes = hash_labels(join(both, xor(both, offsets)), join(tweaks, tweaks), keys)
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
    hashes = hash_labels(join(a, b), tweaks, keys)
    of_a = xor(first_half(hashes), mask(colour_mask(a), generator))
    of_b = xor(second_half(hashes), mask(colour_mask(b), xor(evaluator, a)))
    return xor(of_a, of_b)


@njit(forceinline=True)
def _rows_from(bases, address, row_bytes):
    """Write the addresses of registers that lie one after the other."""
    for position in range(len(bases)):
        bases[position] = address + np.uint64(position) * row_bytes


@njit(forceinline=True)
def _place(bases, strides, register, start):
    """The address of a register's tile that begins with instance ``start``."""
    return bases[register] + start * strides[register]


def garble(width: int, sources: str) -> Callable[..., None]:
    """See :func:`_tape_pass`; a gate has four hashes, so a quarter of the vectors are instances."""
    return _tape_pass(width, together(width) // 4, True, sources)


def evaluate(width: int, sources: str) -> Callable[..., None]:
    """See :func:`_tape_pass`; a gate has two hashes."""
    return _tape_pass(width, together(width) // 2, False, sources)


def _tape_pass(width: int, count: int, garbling: bool, sources: str) -> Callable[..., None]:
    """Garble or evaluate a :class:`~circa_train.gc.aes.fusion.FusedCircuit`, ``count`` vectors of ``width``
    blocks at a time.

    The compiled function takes the rows of the circuit; then its registers: the garbler's and the evaluator's
    input labels, by address and number, the outputs, and one tile of the zeros and of each scratch register;
    the offset (zero when evaluating, because a NOT does not change the evaluator's label); the address of the
    tables; how many instances there are, and the number of the first; and the key schedule.
    """

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
        sources  # noqa: B018
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
            start = next_start(start, instances, tile)

    return run
