"""The CPU kernel's machine code: what numba compiles, all of it in this file.

numba stores compiled code beside the source and looks only at the date of the file that holds the entry point: code in a
second file could change without being compiled anew.

The forward walks a tensor in *runs*: the 256 elements that share 64 Philox blocks (:mod:`circa_train.fault.masks`). For
each run every step below is one loop over 256 numbers in the first-level cache, simple enough to become vector
instructions; steps that happen to one element in hundreds (a rejected mask, an overflow) are repaired by scalar code.
Elements that lie apart in memory, and runs that the tensor covers in part, go through a buffer of 256. Channels-last tensors
are walked in *tiles* where their planes hold whole runs: 64 blocks of 16 channels side by side, so that what is computed
together also lies together in memory.

Random words are computed in 64-bit lanes that hold 32-bit numbers with garbage above them, because the multiplication of the
lower halves of 64-bit lanes is what vector units have; MASK32 marks where the garbage must go.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import carray, cfunc, from_dtype, njit, types

from circa_train.fault.masks import PHILOX_MULTIPLIERS, PHILOX_ROUNDS, PHILOX_WEYL
from circa_train.nn.kernels.intrinsics import atomic_add, pointer, rint, trailing_zeros

RUN, LANES = 256, 64
CHANNELS, PIXELS = 16, 4  # of a tile's blocks; each block has four more such pixels, LANES apart
ROWS, STRIDED, TILED = range(3)
POSZERO, NEGPASS, UNIFORM, WINDOW = range(4)
RAISE, WRAP, SATURATE = range(3)
BOTH, ZEROED, PASSED = range(3)

#: One forward or backward. Addresses and numbers; int64 unless said otherwise.
JOB = np.dtype(
    [
        ("next", "i8"),  # address of the next chunk's number, shared by the threads
        ("counts", "i8"),  # address of COUNTS and, after them, the number of values that are not finite
        ("z", "i8"),  # address of the input (backward: the gradient)
        ("y", "i8"),  # address of the output (backward: the forward's output)
        ("out", "i8"),  # backward: address of the result
        ("elements", "i8"),
        ("chunk", "i8"),  # elements per chunk; they start at its multiples
        ("shift", "i8"),  # less this
        ("chunks", "i8"),
        ("lead", "i8"),  # element number of the first element, modulo RUN
        ("first_run", "i8"),  # and divided by it
        ("channels", "i8"),  # size of dimension 1, or 1
        ("plane", "i8"),  # elements per image and channel
        ("layout", "i8"),  # ROWS (row-major), STRIDED or TILED (channels are adjacent in memory)
        ("brain_float", "i8"),  # bool: 16-bit floats are bfloat16
        ("test", "i8"),  # POSZERO, NEGPASS, UNIFORM, WINDOW
        ("k", "i8"),  # address of one int64 k, or of one per channel
        ("k_count", "i8"),
        ("threshold", "i8"),  # UNIFORM: words below it flip
        ("direction", "i8"),
        ("low", "i8"),  # WINDOW
        ("high", "i8"),
        ("prime", "i8"),
        ("limit", "i8"),  # largest centred value
        ("bound", "f8"),  # the largest number of the arithmetic's precision that does not exceed it
        ("scale", "f8"),  # 2^frac_bits
        ("policy", "i8"),
        ("statistics", "i8"),  # bool
        ("seed", "u8"),
        ("site", "i8"),
        ("draw", "i8"),
    ]
)
_JOB = from_dtype(JOB)

MASK32 = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
M0, M1 = (np.uint64(m) for m in PHILOX_MULTIPLIERS)
W0, W1 = (np.uint64(w) for w in PHILOX_WEYL)
ROUNDS = PHILOX_ROUNDS

_compile = njit(nogil=True, error_model="numpy")


@njit(inline="always")
def _philox(x0: Any, x1: Any, x2: Any, x3: Any, k0: Any, k1: Any) -> Any:
    """Philox4x32-10 of 32-bit numbers in 64-bit lanes; the results have garbage above."""
    for _ in range(ROUNDS):
        low, high = (x0 & MASK32) * M0, (x2 & MASK32) * M1
        x0 = (high >> HALF) ^ x1 ^ k0
        x1 = high
        x2 = (low >> HALF) ^ x3 ^ k1
        x3 = low
        k0 = k0 + W0
        k1 = k1 + W1
    return x0, x1, x2, x3


@_compile
def _counter(job: Any, block: int, attempt: int) -> Any:
    """The counter words (c0, c1, c2, c3) and key (k0, k1) of a block, as in :func:`circa_train.fault.masks.words_at`."""
    number, draw, seed = np.uint64(block), np.uint64(job.draw), np.uint64(job.seed)
    above = (number >> HALF) | np.uint64(attempt << 8) | np.uint64(job.site << 16)
    return number & MASK32, above, draw & MASK32, draw >> HALF, seed & MASK32, seed >> HALF


@_compile
def _words(job: Any, blocks: Any, attempt: int, words: Any) -> None:
    """The 256 random words of 64 blocks."""
    _, above, c2, c3, k0, k1 = _counter(job, 0, attempt)
    for lane in range(LANES):
        x0, x1, x2, x3 = _philox(blocks[lane] & MASK32, (blocks[lane] >> HALF) | above, c2, c3, k0, k1)
        words[lane], words[LANES + lane] = np.uint32(x0), np.uint32(x1)
        words[2 * LANES + lane], words[3 * LANES + lane] = np.uint32(x2), np.uint32(x3)


@_compile
def _masks(job: Any, blocks: Any, threshold: Any, products: Any, halves: Any, t: Any, rejected: Any, groups: Any) -> None:
    """The 256 masks of 64 blocks, uniform on [0, p): Lemire's product, and another attempt for those below the threshold.

    ``halves`` are ``products`` as numbers of 32 bits, lower half first; ``groups`` the 256 bools of ``rejected``, eight to a
    number. Taking the halves apart in a loop of their own costs less than narrowing each product as it comes.
    """
    prime = np.uint64(job.prime) & MASK32
    _, above, c2, c3, k0, k1 = _counter(job, 0, 0)
    for lane in range(LANES):
        x0, x1, x2, x3 = _philox(blocks[lane] & MASK32, (blocks[lane] >> HALF) | above, c2, c3, k0, k1)
        products[lane], products[LANES + lane] = (x0 & MASK32) * prime, (x1 & MASK32) * prime
        products[2 * LANES + lane], products[3 * LANES + lane] = (x2 & MASK32) * prime, (x3 & MASK32) * prime
    for i in range(RUN):
        t[i] = halves[2 * i + 1]
        rejected[i] = halves[2 * i] < threshold
    for group in range(RUN // 8):
        while groups[group] != 0:
            i = 8 * group + trailing_zeros(groups[group]) // 8
            rejected[i] = False
            t[i] = _redraw(job, blocks[i % LANES], i // LANES, prime, threshold)


@_compile
def _redraw(job: Any, block: int, word: int, prime: Any, threshold: Any) -> Any:
    """A mask whose first attempt was rejected: the first of the next attempts that is not."""
    attempt = 1
    while True:
        c0, c1, c2, c3, k0, k1 = _counter(job, block, attempt)
        product = (_philox(c0, c1, c2, c3, k0, k1)[word] & MASK32) * prime
        if np.uint32(product) >= threshold:
            return np.uint32(product >> HALF)
        attempt += 1


@_compile
def _quantise(z: Any, x: Any, scale: Any, limit: Any) -> bool:
    """x = round_half_even(z * scale) as int32, or 0 where that exceeds ``limit`` or z is NaN; whether there were any.

    The scale is a power of two, so the product is exact or far out of range, and for float32 the comparison is with the
    largest float32 that does not exceed the limit: both agree with the float64 formula of :func:`to_fixed`.
    """
    outside, zero = False, scale - scale
    for i in range(RUN):
        scaled = rint(z[i] * scale)
        inside = abs(scaled) <= limit
        outside |= not inside
        x[i] = np.int32(scaled if inside else zero)
    return outside


@_compile
def _overflow(job: Any, z: Any, x: Any, counts: Any) -> None:
    """Count the values of a run that do not fit, and give x what the policy says, by float64 arithmetic."""
    limit, prime = float(job.limit), float(job.prime)
    for i in range(RUN):
        scaled = rint(np.float64(z[i]) * job.scale)
        if not abs(scaled) <= limit:
            counts[0] += 1
            if not math.isfinite(z[i]):
                counts[7] += 1
            elif job.policy == SATURATE:
                x[i] = np.int32(limit if scaled > 0 else -limit)
            elif job.policy == WRAP:
                if math.isinf(scaled):  # of a finite z: reduced before it is scaled, the product is finite
                    scaled = np.fmod(np.float64(z[i]), prime) * job.scale
                residue = np.int64(np.fmod(scaled, prime))
                residue += job.prime if residue < -job.limit else 0
                x[i] = np.int32(residue - job.prime if residue > job.limit else residue)


@_compile
def _truncated(x: Any, t: Any, dropped: Any, negpass: bool, prime: Any, gate: Any) -> None:
    """Circa's sign: (x_s >> k) > (t >> k) iff x_s > t with its k low bits (``dropped`` = 2^k - 1) set, and so NegPass.

    All numbers stay below 2^32; a number that went below 0 is huge, so the smaller of v and v +- p is the reduced one.
    """
    if negpass:
        for i in range(RUN):
            v = np.uint32(x[i])
            v = min(v, np.uint32(v + prime))
            v = np.uint32(v + t[i])
            v = min(v, np.uint32(v - prime))
            gate[i] = np.uint32(0xFFFFFFFF) if (v | dropped[i]) >= t[i] else np.uint32(0)
    else:
        for i in range(RUN):
            v = np.uint32(x[i])
            v = min(v, np.uint32(v + prime))
            v = np.uint32(v + t[i])
            v = min(v, np.uint32(v - prime))
            gate[i] = np.uint32(0xFFFFFFFF) if v > (t[i] | dropped[i]) else np.uint32(0)


@_compile
def _flipped(x: Any, words: Any, threshold: Any, direction: int, gate: Any) -> None:
    """[x > 0], flipped where the word is below the threshold and the direction is meant."""
    positives, negatives = direction != PASSED, direction != ZEROED
    for i in range(RUN):
        meant = (positives & (x[i] > 0)) | (negatives & (x[i] < 0))
        opened = (x[i] > 0) ^ (meant & (np.int64(words[i]) < threshold))
        gate[i] = np.uint32(0xFFFFFFFF) if opened else np.uint32(0)


@_compile
def _windowed(x: Any, low_words: Any, high_words: Any, low: int, high: int, gate: Any) -> None:
    """HummingBird's sign: top bit of the sum of the shares' bits [low, high)."""
    shift, top = np.uint64(low), np.uint64(high - low - 1)
    window = (np.uint64(2) << top) - np.uint64(1)
    for i in range(RUN):
        r = np.uint64(low_words[i]) | (np.uint64(high_words[i]) << HALF)
        server = ((np.uint64(np.int64(x[i])) + r) >> shift) & window
        client = ((np.uint64(0) - r) >> shift) & window
        gate[i] = np.uint32(0) if ((server + client) >> top) & np.uint64(1) else np.uint32(0xFFFFFFFF)


@_compile
def _count(job: Any, x: Any, t: Any, gate: Any, counts: Any) -> None:
    """Add the faults of a run to ``counts``, as :func:`circa_train.fault.law.observed_faults` tells them apart."""
    wrap_zeroed, wrap_passed, zeroed, passed = np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0)
    if job.test == WINDOW:
        top = job.high - 1
        for i in range(RUN):
            negative = (np.int64(x[i]) >> top) & 1 != 0
            lost, kept = (x[i] > 0) & (gate[i] == 0), (x[i] < 0) & (gate[i] != 0)
            zeroed, passed = np.uint32(zeroed + lost), np.uint32(passed + kept)
            wrap_zeroed, wrap_passed = np.uint32(wrap_zeroed + (lost & negative)), np.uint32(wrap_passed + (kept > negative))
    else:
        # x + t left [0, p) on either side iff it is at least p as an unsigned number; flips have no such kind
        prime = np.uint32(job.prime if job.test != UNIFORM else 0xFFFFFFFF)
        for i in range(RUN):
            wrapped = np.uint32(np.uint32(x[i]) + t[i]) >= prime
            lost, kept = (x[i] > 0) & (gate[i] == 0), (x[i] < 0) & (gate[i] != 0)
            zeroed, passed = np.uint32(zeroed + lost), np.uint32(passed + kept)
            wrap_zeroed, wrap_passed = np.uint32(wrap_zeroed + (lost & wrapped)), np.uint32(wrap_passed + (kept & wrapped))
    if job.test == UNIFORM:
        counts[5] += zeroed
        counts[6] += passed
    else:
        counts[1] += wrap_zeroed
        counts[2] += wrap_passed
        counts[3] += zeroed - wrap_zeroed
        counts[4] += passed - wrap_passed


@_compile
def _write(z: Any, gate: Any, sign: Any, y: Any) -> None:
    """y = z where the gate is open (never as +0.0), else +0.0; all of them bit patterns."""
    zero = sign ^ sign
    for i in range(RUN):
        bits = sign if z[i] | sign == sign else z[i]
        y[i] = bits if gate[i] != 0 else zero


@_compile
def _dropped(job: Any, start: int, dropped: Any) -> None:
    """2^k - 1 for the 256 elements from ``start`` on, which may lie before or beyond the tensor, where it does not matter."""
    k = carray(pointer(job.k, np.int64), job.k_count)
    place = 0
    while place < RUN:
        at = max(start + place, 0)
        count = min(RUN - place, job.plane - at % job.plane)
        low = np.uint32((1 << k[at // job.plane % job.k_count]) - 1)
        for i in range(place, place + count):
            dropped[i] = low
        place += count


@_compile
def _copy(job: Any, at: int, count: int, tensor: Any, buffer: Any, offset: int, gather: bool) -> None:
    """Between ``count`` elements of the tensor from row-major index ``at`` on, and buffer[offset:]."""
    stride, image = (1, job.elements) if job.layout == ROWS else (job.channels, job.channels * job.plane)
    plane = job.elements if job.layout == ROWS else job.plane
    done = 0
    while done < count:
        index = at + done
        channel, pixel = index % image // plane, index % plane
        base = index // image * image + channel + pixel * stride
        length = min(count - done, plane - pixel)
        if gather:
            for i in range(length):
                buffer[offset + done + i] = tensor[base + i * stride]
        else:
            for i in range(length):
                tensor[base + i * stride] = buffer[offset + done + i]
        done += length


@_compile
def _tile(job: Any, at: int) -> Any:
    """(image * channels + first channel, first pixel) of the tile whose first element is number ``at`` of those walked."""
    strip = CHANNELS * job.plane  # of 16 channels, walked 64 blocks at a time
    inside = at % strip // RUN
    return at // strip * CHANNELS, inside // (LANES // PIXELS) * RUN + inside % (LANES // PIXELS) * PIXELS


@_compile
def _tile_blocks(job: Any, at: int, blocks: Any) -> None:
    """The block of each lane of a tile: 4 pixels, of 16 channels each."""
    plane, pixel = _tile(job, at)
    first = (job.first_run + (plane * job.plane + pixel) // RUN) * LANES + pixel % LANES
    for i in range(PIXELS):
        for channel in range(CHANNELS):
            blocks[i * CHANNELS + channel] = np.uint64(first + channel * (job.plane // RUN) * LANES + i)


@_compile
def _copy_tile(job: Any, at: int, tensor: Any, buffer: Any, gather: bool) -> None:
    """Between the tensor and the 256 elements of a tile, the 16 channels of a pixel beside each other in both."""
    plane, pixel = _tile(job, at)
    image, channel = plane // job.channels, plane % job.channels
    for row in range(RUN // CHANNELS):
        base = (image * job.plane + pixel + row // PIXELS * LANES + row % PIXELS) * job.channels + channel
        for i in range(CHANNELS):
            if gather:
                buffer[row * CHANNELS + i] = tensor[base + i]
            else:
                tensor[base + i] = buffer[row * CHANNELS + i]


@_compile
def _tile_dropped(job: Any, at: int, dropped: Any) -> None:
    """2^k - 1 for the elements of a tile, k per channel."""
    k = carray(pointer(job.k, np.int64), job.k_count)
    channel = _tile(job, at)[0] % job.channels
    for i in range(RUN):
        dropped[i] = np.uint32((1 << k[channel + i % CHANNELS]) - 1)


@_compile
def _widen(z: Any, brain_float: bool, values: Any) -> None:
    """Bit patterns of bfloat16 or float16 as float32 numbers; no subnormal number is touched, so flushing modes do no harm."""
    bits = values.view(np.uint32)
    if brain_float:
        for i in range(RUN):
            bits[i] = np.uint32(z[i]) << np.uint32(16)
    else:
        for i in range(RUN):
            magnitude = np.uint32(z[i] & np.uint16(0x7FFF))
            exponent = magnitude >> np.uint32(10)
            bias = np.uint32(112 << 23) if exponent != 31 else np.uint32(224 << 23)
            bits[i] = np.uint32(np.uint32(magnitude << np.uint32(13)) + bias + np.uint32(1 << 23 if exponent == 0 else 0))
            value = values[i] - np.float32(2.0**-14) if exponent == 0 else values[i]
            values[i] = -value if z[i] & np.uint16(0x8000) else value


@_compile
def _forward(job_pointer: Any, unsigned: Any, real: Any) -> None:
    job = carray(job_pointer, 1)[0]
    z_all, y_all = carray(pointer(job.z, unsigned), job.elements), carray(pointer(job.y, unsigned), job.elements)
    z_copy, y_copy, values = np.zeros(RUN, unsigned), np.zeros(RUN, unsigned), np.zeros(RUN, real)
    x, t, more, gate = np.zeros(RUN, np.int32), np.zeros(RUN, np.uint32), np.zeros(RUN, np.uint32), np.zeros(RUN, np.uint32)
    dropped, rejected, counts = np.zeros(RUN, np.uint32), np.zeros(RUN, np.bool_), np.zeros(8, np.int64)
    blocks, products = np.zeros(LANES, np.uint64), np.zeros(RUN, np.uint64)
    sign = unsigned(1 << (8 * z_copy.itemsize - 1))
    scale, bound, prime = real(job.scale), real(job.bound), np.uint32(job.prime)
    halves, groups, threshold = products.view(np.uint32), rejected.view(np.uint64), np.uint32(4294967296 % job.prime)
    if job.k_count == 1:
        _dropped(job, 0, dropped)
    while True:
        chunk = atomic_add(job.next, 1)
        if chunk >= job.chunks:
            break
        at = max(chunk * job.chunk - job.shift, 0)
        end = min((chunk + 1) * job.chunk - job.shift, job.elements)
        while at < end:
            number = job.lead + at
            run, offset = job.first_run + number // RUN, number % RUN
            count = min(RUN - offset, end - at)
            direct, tiled = count == RUN and job.layout == ROWS, job.layout == TILED
            z, y = (z_all[at : at + RUN], y_all[at : at + RUN]) if direct else (z_copy, y_copy)
            if tiled:
                _copy_tile(job, at, z_all, z_copy, True)
                _tile_blocks(job, at, blocks)
            else:
                for lane in range(LANES):
                    blocks[lane] = np.uint64(run * LANES + lane)
                if not direct:
                    z_copy[:] = 0
                    _copy(job, at, count, z_all, z_copy, offset, True)
            numbers = values if z_copy.itemsize == 2 else z.view(values.dtype)
            if z_copy.itemsize == 2:
                _widen(z, job.brain_float != 0, values)
            if _quantise(numbers, x, scale, bound):
                _overflow(job, numbers, x, counts)
            if job.test == UNIFORM:
                _words(job, blocks, 0, t)
                _flipped(x, t, job.threshold, job.direction, gate)
            elif job.test == WINDOW:
                _words(job, blocks, 0, t)
                _words(job, blocks, 1, more)
                _windowed(x, t, more, job.low, job.high, gate)
            else:
                _masks(job, blocks, threshold, products, halves, t, rejected, groups)
                if job.k_count > 1:
                    if tiled:
                        _tile_dropped(job, at, dropped)
                    else:
                        _dropped(job, at - offset, dropped)
                _truncated(x, t, dropped, job.test == NEGPASS, prime, gate)
            if job.statistics:
                _count(job, x, t, gate, counts)
            _write(z, gate, sign, y)
            if tiled:
                _copy_tile(job, at, y_all, y_copy, False)
            elif not direct:
                _copy(job, at, count, y_all, y_copy, offset, False)
            at += count
    for place in range(8):
        if counts[place]:
            atomic_add(job.counts + 8 * place, counts[place])


@_compile
def _backward(job_pointer: Any, unsigned: Any) -> None:
    job = carray(job_pointer, 1)[0]
    grad, y = carray(pointer(job.z, unsigned), job.elements), carray(pointer(job.y, unsigned), job.elements)
    out = carray(pointer(job.out, unsigned), job.elements)
    zero = unsigned(0)
    while True:
        chunk = atomic_add(job.next, 1)
        if chunk >= job.chunks:
            break
        for i in range(chunk * job.chunk, min((chunk + 1) * job.chunk, job.elements)):
            out[i] = grad[i] if y[i] != 0 else zero


def _forward_16(job: Any) -> None:
    _forward(job, np.uint16, np.float32)


def _forward_32(job: Any) -> None:
    _forward(job, np.uint32, np.float32)


def _forward_64(job: Any) -> None:
    _forward(job, np.uint64, np.float64)


def _backward_16(job: Any) -> None:
    _backward(job, np.uint16)


def _backward_32(job: Any) -> None:
    _backward(job, np.uint32)


def _backward_64(job: Any) -> None:
    _backward(job, np.uint64)


_ENTRIES = {
    (False, 2): _forward_16, (False, 4): _forward_32, (False, 8): _forward_64,
    (True, 2): _backward_16, (True, 4): _backward_32, (True, 8): _backward_64,
}  # fmt: skip


@functools.cache
def entry(backward: bool, itemsize: int) -> Any:
    """The compiled entry for elements of that many bytes; ``.address`` is a C function that takes the address of a JOB."""
    return cfunc(types.void(types.CPointer(_JOB)), cache=True)(_ENTRIES[backward, itemsize])
