"""The kernel for x86 with AES instructions: one compiled pass over the tape, on vector registers of AES blocks.

Instances go through the whole circuit in tiles small enough for the first-level cache; within a tile, all instances of
a gate are independent, so the processor overlaps their AES rounds by itself and nothing waits for latency. Where the
number of instances is not a multiple of the vector width, the rest goes one block at a time: nothing is padded.

The compiled functions take byte addresses (``uintp``). ``NumbaKernel`` is what checks shapes and keeps arrays alive.
"""

# Functions under @njit are typed by numba when they are compiled, not by annotations.
from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from circa_train.gc.aes import BLOCK_BYTES, ROUNDS, Blocks, expand_key
from circa_train.gc.circuit import Circuit, Op
from circa_train.gc.hashing import Inputs
from circa_train.gc.lanes import (
    aes_last_round,
    aes_round,
    broadcast,
    colour_mask,
    count_high,
    count_low,
    lane_bytes,
    load,
    mask,
    store,
    xor,
)

_TILE = 64  # instances; 1 KiB per register, and a step of a comparison touches a handful of registers
_XOR, _NOT = int(Op.XOR), int(Op.NOT)
_COPIES = 4  # every round key is stored four times in a row, so that a vector of any width is one load
_BLOCK, _KEY = np.uint64(16), np.uint64(16 * _COPIES)
_ZERO, _ONE, _TWO, _LAST = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(ROUNDS)


@njit
def _aes(x, keys):
    x = xor(x, load(keys, x))
    for i in range(1, ROUNDS):
        x = aes_round(x, load(keys + np.uint64(i) * _KEY, x))
    return aes_last_round(x, load(keys + _LAST * _KEY, x))


@njit
def _hash(x, tweak, keys):
    """TMMO, see :mod:`circa_train.gc.hashing`."""
    inner = _aes(x, keys)
    return xor(_aes(xor(inner, tweak), keys), inner)


@njit
def _garble_and(a, b, offset, number, instance, keys):
    """(generator half, evaluator half, false-label of the result)"""
    left, right = count_high(_TWO * number, instance, a), count_high(_TWO * number + _ONE, instance, a)
    a0, a1 = _hash(a, left, keys), _hash(xor(a, offset), left, keys)
    b0, b1 = _hash(b, right, keys), _hash(xor(b, offset), right, keys)
    generator = xor(xor(a0, a1), mask(colour_mask(b), offset))
    evaluator = xor(xor(b0, b1), a)
    of_a = xor(a0, mask(colour_mask(a), generator))
    of_b = xor(b0, mask(colour_mask(b), xor(evaluator, a)))
    return generator, evaluator, xor(of_a, of_b)


@njit
def _evaluate_and(a, b, generator, evaluator, number, instance, keys):
    """The active label of the result."""
    of_a = xor(_hash(a, count_high(_TWO * number, instance, a), keys), mask(colour_mask(a), generator))
    of_b = xor(
        _hash(b, count_high(_TWO * number + _ONE, instance, a), keys), mask(colour_mask(b), xor(evaluator, a))
    )
    return xor(of_a, of_b)


# A span is a loop over instances, from byte offset ``at`` up to ``end``, as many at a time as ``like`` has lanes.


@njit
def _xor_span(left, right, result, at, end, like):
    while at < end:
        store(result + at, xor(load(left + at, like), load(right + at, like)))
        at += lane_bytes(like)


@njit
def _negate_span(left, result, at, end, offset):
    while at < end:
        store(result + at, xor(load(left + at, offset), offset))
        at += lane_bytes(offset)


@njit
def _garble_span(left, right, result, table, stride, at, end, offset, number, instance, keys):
    while at < end:
        generator, evaluator, label = _garble_and(
            load(left + at, offset), load(right + at, offset), offset, number, instance + at // _BLOCK, keys
        )
        store(table + at, generator)
        store(table + stride + at, evaluator)
        store(result + at, label)
        at += lane_bytes(offset)


@njit
def _evaluate_span(left, right, result, table, stride, at, end, like, number, instance, keys):
    while at < end:
        label = _evaluate_and(
            load(left + at, like),
            load(right + at, like),
            load(table + at, like),
            load(table + stride + at, like),
            number,
            instance + at // _BLOCK,
            keys,
        )
        store(result + at, label)
        at += lane_bytes(like)


@njit
def _aes_span(source, target, at, end, like, keys):
    while at < end:
        store(target + at, _aes(load(source + at, like), keys))
        at += lane_bytes(like)


@njit
def _counter_span(first, target, at, end, like, keys):
    while at < end:
        store(target + at, _aes(count_low(first + at // _BLOCK, _ZERO, like), keys))
        at += lane_bytes(like)


@njit
def _hash_span(source, target, at, end, like, tweak, instance, keys):
    while at < end:
        store(target + at, _hash(load(source + at, like), count_high(tweak, instance + at // _BLOCK, like), keys))
        at += lane_bytes(like)


@cache
def _compiled(blocks: int) -> dict[str, Callable[..., None]]:
    """The entry points for vectors of ``blocks`` blocks; numba compiles each at its first call."""

    @njit(nogil=True)
    def aes(source, target, instances, keys):
        size = np.uint64(instances) * _BLOCK
        wide, single = broadcast(keys, blocks), broadcast(keys, 1)
        whole = size - size % lane_bytes(wide)
        _aes_span(source, target, _ZERO, whole, wide, keys)
        _aes_span(source, target, whole, size, single, keys)

    @njit(nogil=True)
    def counters(first, target, instances, keys):
        size = np.uint64(instances) * _BLOCK
        wide, single = broadcast(keys, blocks), broadcast(keys, 1)
        whole = size - size % lane_bytes(wide)
        _counter_span(first, target, _ZERO, whole, wide, keys)
        _counter_span(first, target, whole, size, single, keys)

    @njit(nogil=True)
    def tccr_hash(source, target, instances, tweak, first_instance, keys):
        size = np.uint64(instances) * _BLOCK
        wide, single = broadcast(keys, blocks), broadcast(keys, 1)
        whole = size - size % lane_bytes(wide)
        _hash_span(source, target, _ZERO, whole, wide, tweak, first_instance, keys)
        _hash_span(source, target, whole, size, single, tweak, first_instance, keys)

    @njit(nogil=True)
    def garble(tape, registers, offset, tables, instances, first_instance, keys):
        wide, single = broadcast(offset, blocks), broadcast(offset, 1)
        stride = np.uint64(instances) * _BLOCK
        for start in range(0, instances, _TILE):
            at = np.uint64(start) * _BLOCK
            end = np.uint64(min(start + _TILE, instances)) * _BLOCK
            whole = end - (end - at) % lane_bytes(wide)
            number = _ZERO
            for gate in range(tape.shape[0]):
                op = tape[gate, 0]
                left, right, result = registers[tape[gate, 1]], registers[tape[gate, 2]], registers[tape[gate, 3]]
                if op == _XOR:
                    _xor_span(left, right, result, at, whole, wide)
                    _xor_span(left, right, result, whole, end, single)
                elif op == _NOT:
                    _negate_span(left, result, at, whole, wide)
                    _negate_span(left, result, whole, end, single)
                else:
                    table = tables + _TWO * number * stride
                    _garble_span(left, right, result, table, stride, at, whole, wide, number, first_instance, keys)
                    _garble_span(left, right, result, table, stride, whole, end, single, number, first_instance, keys)
                    number += _ONE

    @njit(nogil=True)
    def evaluate(tape, registers, nothing, tables, instances, first_instance, keys):
        # An evaluator keeps its label at a NOT: it negates by an offset of zero.
        wide, single = broadcast(nothing, blocks), broadcast(nothing, 1)
        stride = np.uint64(instances) * _BLOCK
        for start in range(0, instances, _TILE):
            at = np.uint64(start) * _BLOCK
            end = np.uint64(min(start + _TILE, instances)) * _BLOCK
            whole = end - (end - at) % lane_bytes(wide)
            number = _ZERO
            for gate in range(tape.shape[0]):
                op = tape[gate, 0]
                left, right, result = registers[tape[gate, 1]], registers[tape[gate, 2]], registers[tape[gate, 3]]
                if op == _XOR:
                    _xor_span(left, right, result, at, whole, wide)
                    _xor_span(left, right, result, whole, end, single)
                elif op == _NOT:
                    _negate_span(left, result, at, whole, wide)
                    _negate_span(left, result, whole, end, single)
                else:
                    table = tables + _TWO * number * stride
                    _evaluate_span(left, right, result, table, stride, at, whole, wide, number, first_instance, keys)
                    _evaluate_span(left, right, result, table, stride, whole, end, single, number, first_instance, keys)
                    number += _ONE

    return {"aes": aes, "counters": counters, "tccr_hash": tccr_hash, "garble": garble, "evaluate": evaluate}


class NumbaKernel:
    """See :class:`circa_train.gc.hashing.Kernel`. ``blocks`` is the vector width the host has: 1, 2 or 4."""

    def __init__(self, key: bytes, blocks: int) -> None:
        self.name = f"numba-{128 * blocks}"
        self._run = _compiled(blocks)
        self._keys = _aligned(np.repeat(expand_key(key)[:, None], _COPIES, axis=1))

    def encrypt(self, blocks: Blocks) -> Blocks:
        source = _aligned(blocks)
        target = _empty(source.shape)
        self._run["aes"](_address(source), _address(target), len(source), _address(self._keys))
        return target

    def counters(self, first: int, out: Blocks) -> None:
        _check_target(out)
        self._run["counters"](np.uint64(first), _address(out), out.size // 2, _address(self._keys))

    def tccr_hash(self, labels: Blocks, tweak: int, first_instance: int) -> Blocks:
        source = _aligned(labels)
        target = _empty(source.shape)
        self._run["tccr_hash"](
            _address(source),
            _address(target),
            len(source),
            np.uint64(tweak),
            np.uint64(first_instance),
            _address(self._keys),
        )
        return target

    def garble(
        self, circuit: Circuit, inputs: Inputs, offset: Blocks, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        _check_target(tables)
        return self._run_tape("garble", circuit, inputs, offset, tables, first_instance)

    def evaluate(
        self, circuit: Circuit, inputs: Inputs, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        nothing = np.zeros(2, dtype=np.uint64)
        return self._run_tape("evaluate", circuit, inputs, nothing, _aligned(tables), first_instance)

    def _run_tape(
        self, run: str, circuit: Circuit, inputs: Inputs, offset: Blocks, tables: Blocks, first_instance: int
    ) -> list[Blocks]:
        instances = inputs[0].shape[1]
        for labels, wires in zip(inputs, (circuit.garbler_inputs, circuit.evaluator_inputs), strict=True):
            if labels.shape != (wires, instances, 2):
                raise ValueError(f"inputs: expected shape {(wires, instances, 2)}, got {labels.shape}")
        if tables.shape != (circuit.and_gates, 2, instances, 2):
            raise ValueError(f"tables: expected shape {(circuit.and_gates, 2, instances, 2)}, got {tables.shape}")
        inner = _empty((circuit.registers - circuit.inputs, instances, 2))
        groups = [*map(_aligned, inputs), inner]
        stride = instances * BLOCK_BYTES
        addresses = np.concatenate(
            [group.ctypes.data + stride * np.arange(len(group), dtype=np.uint64) for group in groups]
        )
        offset = _aligned(offset)
        self._run[run](
            circuit.tape,
            addresses,
            _address(offset),
            _address(tables),
            instances,
            np.uint64(first_instance),
            _address(self._keys),
        )
        registers = [row for group in groups for row in group]
        return [registers[register] for register in circuit.outputs]


def _address(array: NDArray[Any]) -> np.uint64:
    return np.uint64(array.ctypes.data)


def _empty(shape: tuple[int, ...]) -> Blocks:
    return np.empty(shape, dtype=np.uint64)


def _aligned(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself if it is contiguous and on a 16-byte boundary, else a copy that is."""
    if array.flags.c_contiguous and array.ctypes.data % 16 == 0:
        return array
    copy = np.empty_like(array, order="C")
    copy[...] = array
    return copy


def _check_target(out: Blocks) -> None:
    if not (out.flags.c_contiguous and out.ctypes.data % 16 == 0 and out.dtype == np.uint64):
        raise ValueError("labels and tables are written in place: they must be contiguous uint64 on a 16-byte boundary")
