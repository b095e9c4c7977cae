"""Random words and uniform masks in machine code: what :mod:`circa_train.fault.masks` defines, a run at a
time.

A run's 64 blocks have the numbers ``base + steps[lane]``, so one table of steps serves all runs of a tensor.
Vector units multiply the lower halves of 64-bit lanes. So each lane holds a 32-bit word, and the 32 bits
above it hold something that does not matter.

Masks cost more than all the rest of a sign test. So this one loop is written vector by vector, in LLVM's
intermediate language (:func:`_masks_of`). Left alone, the compiler would compute one vector after the other,
and wait for every multiplication. It would also write the products to memory before masks and rejected lanes
are known. Rejected masks, one in 250 at the default prime, are collected over several runs and drawn again
together.

The other side of this trick is said in :mod:`circa_train.kernels.cpu.intrinsics`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types

from circa_train.fault.masks import LANES, RUN
from circa_train.kernels.cpu.intrinsics import (
    array_at,
    inlined,
    intrinsic,
    machine_code,
    prefetch,
    stack,
    trailing_zeros,
)
from circa_train.philox import PHILOX_MULTIPLIERS, PHILOX_ROUNDS, PHILOX_WEYL

#: Runs whose masks are drawn before the first of them is used. At the default prime, 16 runs have about 16
#: rejected masks, and masks are drawn again for 16 or 32 elements at a time. So little is drawn for nothing.
BATCH = 16
BATCH_MASKS = BATCH * RUN
_BITS = BATCH_MASKS // 8
_RUN_BITS = RUN // 8

#: Lanes of a vector, and how many vectors go through the rounds together: as many as the registers hold.
_WIDTH = 8
_TOGETHER = 4 if binding.get_host_cpu_features().get("avx512f") else 2
_STEP = _WIDTH * _TOGETHER

MASK32 = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
M0, M1 = (np.uint64(m) for m in PHILOX_MULTIPLIERS)
W0, W1 = (np.uint64(w) for w in PHILOX_WEYL)


@machine_code
def counter(task: Any, attempt: int) -> Any:
    """Counter words c1 (without the block's part), c2, c3 and key words k0, k1 of an address."""
    draw, seed = np.uint64(task.draw), np.uint64(task.seed)
    above = np.uint64(attempt << 8) | np.uint64(task.site << 16)
    return above, draw & MASK32, draw >> HALF, seed & MASK32, seed >> HALF


@machine_code
def draw_words(task: Any, base: Any, steps: Any, attempt: int, words: Any) -> None:
    """The 256 random words of a run."""
    above, c2, c3, k0, k1 = counter(task, attempt)
    for lane in range(LANES):
        block = base + steps[lane]
        x0, x1, x2, x3, a, b = block & MASK32, (block >> HALF) | above, c2, c3, k0, k1
        for _ in range(PHILOX_ROUNDS):
            low, high = (x0 & MASK32) * M0, (x2 & MASK32) * M1
            x0, x1, x2, x3 = (high >> HALF) ^ x1 ^ a, high, (low >> HALF) ^ x3 ^ b, low
            a, b = a + W0, b + W1
        words[lane], words[LANES + lane] = np.uint32(x0), np.uint32(x1)
        words[2 * LANES + lane], words[3 * LANES + lane] = np.uint32(x2), np.uint32(x3)


@machine_code
def draw_masks(
    task: Any, bases: Any, runs: int, steps: int, masks: int, z: int, y: int, run_bytes: int
) -> None:
    """The masks of up to BATCH runs, uniform on [0, p).

    Args:
        bases: uint64, of each run.
        steps: address of the 64 steps.
        masks: address of the result, uint32, in the order of elements.
        z, y, run_bytes: addresses of the runs' activations and results, and the bytes of a run. They are
            fetched into the cache while masks are drawn, which needs no memory. ``run_bytes`` is 0 if the
            runs do not lie one after the other.
    """
    rejected, numbers = stack(np.uint8, _BITS), _numbers(task, 0)
    for run in range(runs):
        _draw(numbers, bases[run], steps, LANES, masks + 4 * RUN * run, rejected + _RUN_BITS * run)
        for line in range(run * run_bytes, (run + 1) * run_bytes, 64):
            prefetch(z + line, 0)
            prefetch(y + line, 1)
    pending, count = array_at(stack(np.uint16, BATCH_MASKS), BATCH_MASKS, np.uint16), 0
    groups = array_at(rejected, runs * RUN // 64, np.uint64)
    for group in range(len(groups)):
        bits = groups[group]
        while bits != 0:
            pending[count] = np.uint16(64 * group + trailing_zeros(bits))
            count += 1
            bits &= bits - np.uint64(1)
    attempt = 1
    while count > 0:
        count = _draw_again(task, bases, steps, attempt, masks, pending, count)
        attempt += 1


@machine_code
def _draw_again(task: Any, bases: Any, steps: int, attempt: int, masks: int, pending: Any, count: int) -> int:
    """Another attempt at the masks whose places are ``pending[:count]``. Returns how many are rejected again;
    their places are then at the front of ``pending``.
    """
    blocks_at, found_at, rejected_at = (
        stack(np.uint64, LANES),
        stack(np.uint32, RUN),
        stack(np.uint8, _RUN_BITS),
    )
    blocks, found = array_at(blocks_at, LANES, np.uint64), array_at(found_at, RUN, np.uint32)
    rejected, every_step = array_at(rejected_at, _RUN_BITS, np.uint8), array_at(steps, LANES, np.uint64)
    result = array_at(masks, BATCH_MASKS, np.uint32)
    left = 0
    blocks[:] = 0
    for first in range(0, count, LANES):
        size = min(LANES, count - first)
        for lane in range(size):
            place = np.int64(pending[first + lane])
            blocks[lane] = bases[place // RUN] + every_step[place % LANES]
        _draw(_numbers(task, attempt), np.uint64(0), blocks_at, size, found_at, rejected_at)
        for lane in range(size):
            place = np.int64(pending[first + lane])
            source = place % RUN // LANES * LANES + lane
            result[place] = found[source]
            if rejected[source // 8] >> (source % 8) & 1:
                pending[left] = np.uint16(place)  # this place has been read already
                left += 1
    return left


@inlined
def _numbers(task: Any, attempt: int) -> Any:
    """What all lanes have in common. It is read from the task once: the compiler cannot know that writing
    masks does not change the task, and would read it again each time.
    """
    above, c2, c3, k0, k1 = counter(task, attempt)
    prime = np.uint64(task.prime)
    return above, c2, c3, k0, k1, prime, np.uint64(4294967296) % prime


@inlined
def _draw(numbers: Any, base: Any, steps: int, lanes: int, masks: int, rejected: int) -> None:
    """One attempt at the masks of a run's first lanes. Writes the masks, and for each a bit that says whether
    it is rejected. ``steps``, ``masks`` and ``rejected`` are addresses.
    """
    above, c2, c3, k0, k1, prime, threshold = numbers
    for lane in range(0, lanes, _STEP):
        _masks_of(
            base,
            steps + 8 * lane,
            above,
            c2,
            c3,
            k0,
            k1,
            prime,
            threshold,
            masks + 4 * lane,
            rejected + lane // 8,
        )


@intrinsic
def _masks_of(
    typing: Any, base: Any, steps: Any, above: Any, c2: Any, c3: Any, k0: Any, k1: Any, prime: Any,
    threshold: Any,
    masks: Any, rejected: Any,
) -> Any:  # fmt: skip
    """The four masks of each of _STEP consecutive lanes, by Philox4x32-10 and Lemire's product; all arguments
    uint64.

    ``steps``, ``masks`` and ``rejected`` are addresses. Mask w of a lane goes to place 64 w + lane, as its
    bit does.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, steps, above, c2, c3, k0, k1, prime, threshold, masks, rejected = args
        lower, half = _constant(0xFFFFFFFF), _constant(32)
        first, second, third = (_repeat(builder, word) for word in (above, c2, c3))
        numbers = builder.inttoptr(steps, _VECTOR.as_pointer())
        state = []
        for position in range(_TOGETHER):
            step = builder.load(builder.gep(numbers, [ir.Constant(_WORD, position)]), align=8)
            block = builder.add(_repeat(builder, base), step)
            state.append((block, builder.or_(builder.lshr(block, half), first), second, third))
        for _ in range(PHILOX_ROUNDS):
            key0, key1 = _repeat(builder, k0), _repeat(builder, k1)
            products = [
                [
                    builder.mul(builder.and_(x, lower), _constant(m))
                    for x, m in zip(s[::2], PHILOX_MULTIPLIERS, strict=True)
                ]
                for s in state
            ]
            state = [
                (
                    builder.xor(builder.xor(builder.lshr(high, half), s[1]), key0), high,
                    builder.xor(builder.xor(builder.lshr(low, half), s[3]), key1), low,
                )
                for s, (low, high) in zip(state, products, strict=True)
            ]  # fmt: skip
            k0, k1 = (
                builder.add(k, ir.Constant(_WORD, w)) for k, w in zip((k0, k1), PHILOX_WEYL, strict=True)
            )
        p, least = _repeat(builder, prime), _repeat(builder, builder.trunc(threshold, _NUMBER), _NUMBERS)
        for word in range(4):
            for position in range(0, _TOGETHER, 2):
                pair = [
                    builder.bitcast(builder.mul(builder.and_(s[word], lower), p), _NUMBERS)
                    for s in state[position : position + 2]
                ]
                low, high = (builder.shuffle_vector(*pair, _every_other(half)) for half in range(2))
                place = LANES * word + _WIDTH * position
                _store(builder, high, masks, 4 * place)
                bits = builder.bitcast(builder.icmp_unsigned("<", low, least), ir.IntType(2 * _WIDTH))
                _store(builder, bits, rejected, place // 8)
        return context.get_dummy_value()

    return types.void(*[types.uint64] * 11), generate


_WORD, _NUMBER = ir.IntType(64), ir.IntType(32)
_VECTOR, _NUMBERS = ir.VectorType(_WORD, _WIDTH), ir.VectorType(_NUMBER, 2 * _WIDTH)


def _constant(value: int) -> Any:
    return ir.Constant(_VECTOR, [value] * _WIDTH)


def _repeat(builder: Any, value: Any, kind: Any = _VECTOR) -> Any:
    """A vector of copies of a number."""
    undefined = ir.Constant(kind, ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(_NUMBER, 0))
    return builder.shuffle_vector(
        single, undefined, ir.Constant(ir.VectorType(_NUMBER, kind.count), [0] * kind.count)
    )


def _every_other(start: int) -> Any:
    return ir.Constant(_NUMBERS, list(range(start, 4 * _WIDTH, 2)))


def _store(builder: Any, value: Any, address: Any, offset: int) -> None:
    place = builder.inttoptr(builder.add(address, ir.Constant(_WORD, offset)), value.type.as_pointer())
    builder.store(value, place, align=1)
