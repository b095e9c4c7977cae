"""Random words and uniform masks in machine code: what :mod:`circa_train.fault.masks` defines, a run at a
time.

A run's 64 blocks have the numbers ``base + steps[lane]``, so one table of steps serves all runs of a tensor.
Vector units multiply the lower halves of 64-bit lanes. So each lane holds a 32-bit word, and the 32 bits
above it hold something that does not matter.

Masks cost more than all the rest of a sign test. So this one loop is written vector by vector, in LLVM's
intermediate language (:func:`_masks_of`). Left alone, the compiler would compute one vector after the other,
and wait for every multiplication. It would also write the products to memory before masks and rejected lanes
are known. A vector's state takes four registers: with AVX-512 (32 registers) four vectors go through the
rounds together, else (16 registers) two. More would not stay in registers. Rejected masks, one in 250 at the
default prime, are collected over several runs and drawn again together.

The other side of this trick is said in :mod:`circa_train.kernels.cpu.intrinsics`.
"""

from __future__ import annotations

import os
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

#: For each width of registers, the lanes of a vector and how many vectors go through the rounds together.
#: Where registers have only 128 bits, LLVM makes two of each vector of 256.
SHAPES = {"256": (4, 2), "512": (8, 4)}


def _vector_bits() -> str:
    """The width to compile for: the host's, or what CIRCA_TRAIN_VECTOR_BITS says. The masks are the same."""
    widest = "512" if binding.get_host_cpu_features().get("avx512f") else "256"
    bits = os.environ.get("CIRCA_TRAIN_VECTOR_BITS", widest)
    if bits not in SHAPES:
        raise ValueError(f"CIRCA_TRAIN_VECTOR_BITS = {bits!r} is not one of {sorted(SHAPES)}")
    return bits


#: The width of vectors in bits, with which this process compiles.
VECTOR_BITS = _vector_bits()
_WIDTH, _TOGETHER = SHAPES[VECTOR_BITS]
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
        half, first, second, third = _constant(32), *(_repeat(builder, word) for word in (above, c2, c3))
        m0, m1 = (_constant(m) for m in PHILOX_MULTIPLIERS)

        def product(word: Any, factor: Any) -> Any:
            return builder.mul(_lower(builder, word), factor)

        state = []
        for position in range(_TOGETHER):
            block = builder.add(_repeat(builder, base), _steps(builder, steps, position))
            state.append((block, builder.or_(builder.lshr(block, half), first), second, third))
        for _ in range(PHILOX_ROUNDS):
            key0, key1 = _repeat(builder, k0), _repeat(builder, k1)
            products = [(product(x0, m0), product(x2, m1)) for x0, _, x2, _ in state]
            state = [
                (
                    builder.xor(builder.lshr(high, half), builder.xor(x1, key0)), high,
                    builder.xor(builder.lshr(low, half), builder.xor(x3, key1)), low,
                )
                for (_, x1, _, x3), (low, high) in zip(state, products, strict=True)
            ]  # fmt: skip
            k0, k1 = (
                builder.add(k, ir.Constant(_WORD, w)) for k, w in zip((k0, k1), PHILOX_WEYL, strict=True)
            )
        # the compiler cannot know that p has 32 bits only, and would multiply twice
        p = _lower(builder, _repeat(builder, prime))
        least = _repeat(builder, builder.trunc(threshold, _NUMBER), _NUMBERS)
        for word in range(4):
            for position in range(0, _TOGETHER, 2):
                pair = [
                    builder.bitcast(product(s[word], p), _NUMBERS) for s in state[position : position + 2]
                ]
                low, high = (builder.shuffle_vector(*pair, _halves(start)) for start in range(2))
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


def _lower(builder: Any, vector: Any) -> Any:
    return builder.and_(vector, _constant(0xFFFFFFFF))


def _steps(builder: Any, address: Any, position: int) -> Any:
    """The steps of one vector's lanes: not of consecutive ones, but such that the two vectors of a pair
    together hold 2 _WIDTH consecutive lanes, and :func:`_halves` brings those into their order.
    """
    numbers = builder.inttoptr(address, _WORD.as_pointer())
    vectors = []
    for vector in (position // 2 * 2, position // 2 * 2 + 1):
        place = builder.gep(numbers, [ir.Constant(_WORD, vector * _WIDTH)])
        vectors.append(builder.load(builder.bitcast(place, _VECTOR.as_pointer()), align=8))
    first = position % 2 * 2
    lanes = [four + first + lane for four in range(0, 2 * _WIDTH, 4) for lane in range(2)]
    return builder.shuffle_vector(*vectors, ir.Constant(ir.VectorType(_NUMBER, _WIDTH), lanes))


def _halves(start: int) -> Any:
    """Which numbers of a pair of products are the lower halves (``start`` = 0) or the upper ones (1), in the
    order of their lanes. From each 128 bits of each of the two vectors the processor takes two numbers: this
    is one instruction. If numbers had to move between 128-bit parts, it would be two.
    """
    return ir.Constant(
        _NUMBERS,
        [
            2 * _WIDTH * vector + four + number + start
            for four in range(0, 2 * _WIDTH, 4)
            for vector in range(2)
            for number in (0, 2)
        ],
    )


def _store(builder: Any, value: Any, address: Any, offset: int) -> None:
    place = builder.inttoptr(builder.add(address, ir.Constant(_WORD, offset)), value.type.as_pointer())
    builder.store(value, place, align=1)
