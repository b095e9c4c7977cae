"""The arithmetic of one run of 256 elements in machine code: values, gates, results, and what they count.

Every function is a loop over 256 numbers in the first-level cache, simple enough to become vector
instructions. What happens to one value in millions (it does not fit into the field) is only noticed there,
and repaired by scalar code.

Circa's sign without statistics is one loop from activation to result (:func:`poszero`, :func:`negpass`);
everything else goes through arrays of x and of gates.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from circa_train.fault.masks import RUN
from circa_train.kernels.cpu.intrinsics import inlined, machine_code, rint
from circa_train.kernels.cpu.tasks import PASSED, SATURATE, UNIFORM, WINDOW, WRAP, ZEROED

OPEN, CLOSED = np.uint32(0xFFFFFFFF), np.uint32(0)


class Numbers(NamedTuple):
    """What all runs of a tensor have in common. It is read from the task once: for all the compiler knows,
    writing results could change the task.
    """

    scale: Any  # 2^frac_bits, of the arithmetic's type
    prime: Any  # uint32
    sign: Any  # the sign bit of an element, as an unsigned number of its width
    magnitude: Any  # all bits but the sign, as an unsigned number of the width of the arithmetic's type
    reach: Any  # the bits of the largest magnitude that fits into the field


@machine_code
def widen(z: Any, brain_float: bool, bits: Any, values: Any) -> None:
    """Bit patterns of bfloat16 or float16 as float32 ``values``, whose patterns are ``bits``.

    No subnormal number takes part in arithmetic, so modes that flush them do no harm.
    """
    if brain_float:
        for i in range(RUN):
            bits[i] = np.uint32(z[i]) << np.uint32(16)
    else:
        for i in range(RUN):
            magnitude = np.uint32(z[i] & np.uint16(0x7FFF))
            exponent = magnitude >> np.uint32(10)
            bias = np.uint32(112 << 23) if exponent != 31 else np.uint32(224 << 23)
            bits[i] = np.uint32(
                np.uint32(magnitude << np.uint32(13)) + bias + np.uint32(1 << 23 if exponent == 0 else 0)
            )
            value = values[i] - np.float32(2.0**-14) if exponent == 0 else values[i]
            values[i] = -value if z[i] & np.uint16(0x8000) else value


@inlined
def poszero(values: Any, bits: Any, z: Any, t: Any, dropped: Any, numbers: Any, y: Any) -> bool:
    """y of Circa's sign test, ties closed, if all values fit; and whether they do.

    Let w = (x mod p) + t, which is x_s or x_s + p. Where x > 0 wraps, and where x < 0 does not, x_s < t and w
    >= p; else w = x_s. So the gate is open iff t < w < p in blocks of 2^k, and nothing is reduced.
    ``dropped`` is 2^k - 1: the block of w is after that of t iff w > t with its k low bits set. At x = 0 the
    gate is closed, so an open one never writes a zero.
    """
    scale, prime, sign, magnitude, reach = numbers
    beyond, zero = False, sign ^ sign
    for i in range(RUN):
        beyond |= (bits[i] & magnitude) > reach
        w = np.uint32(np.int32(rint(values[i] * scale)))
        w = np.uint32(min(w, np.uint32(w + prime)) + t[i])
        y[i] = z[i] if (w > (t[i] | dropped[i])) & (w < prime) else zero
    return not beyond


@inlined
def negpass(values: Any, bits: Any, z: Any, t: Any, dropped: Any, numbers: Any, y: Any) -> bool:
    """The same with ties open: a wrapped x_s may tie with t, so it is reduced; and an open gate writes zero
    as -0.0.
    """
    scale, prime, sign, magnitude, reach = numbers
    beyond, zero = False, sign ^ sign
    for i in range(RUN):
        beyond |= (bits[i] & magnitude) > reach
        v = _server_share(np.uint32(np.int32(rint(values[i] * scale))), t[i], prime)
        shown = sign if z[i] == zero else z[i]
        y[i] = shown if (v | dropped[i]) >= t[i] else zero
    return not beyond


@njit(inline="always")
def _server_share(x: Any, t: Any, prime: Any) -> Any:
    """(x + t) mod p of uint32 numbers. One that went below 0 is huge, so the smaller of v and v +- p is the
    reduced one.
    """
    v = np.uint32(min(x, np.uint32(x + prime)) + t)
    return min(v, np.uint32(v - prime))


@machine_code
def quantise(values: Any, bits: Any, numbers: Any, x: Any) -> bool:
    """x = round_half_even(value * scale) as int32, right where it fits; and whether all do.

    The scale is a power of two, so a product is exact or far out of range. Magnitudes order as their bit
    patterns do, with infinities and NaN above all numbers; ``reach`` is the largest that fits.
    """
    beyond, scale = False, numbers.scale
    magnitude, reach = numbers.magnitude, numbers.reach
    for i in range(RUN):
        beyond |= (bits[i] & magnitude) > reach
        x[i] = np.int32(rint(values[i] * scale))
    return not beyond


@machine_code
def repair(task: Any, values: Any, x: Any, counts: Any) -> None:
    """Count the values of a run that do not fit, and give x what the policy says, or 0, by float64
    arithmetic.
    """
    limit, prime = float(task.limit), float(task.prime)
    for i in range(RUN):
        scaled = rint(np.float64(values[i]) * task.scale)
        if not abs(scaled) <= limit:
            counts[0] += 1
            x[i] = 0
            if not math.isfinite(values[i]):
                counts[7] += 1
            elif task.policy == SATURATE:
                x[i] = np.int32(limit if scaled > 0 else -limit)
            elif task.policy == WRAP:
                # of a finite value: reduced before it is scaled, the product is finite
                if math.isinf(scaled):
                    scaled = np.fmod(np.float64(values[i]), prime) * task.scale
                residue = np.int64(np.fmod(scaled, prime))
                residue += task.prime if residue < -task.limit else 0
                x[i] = np.int32(residue - task.prime if residue > task.limit else residue)


@machine_code
def truncated(x: Any, t: Any, dropped: Any, ties_open: bool, prime: Any, gate: Any) -> None:
    """Circa's sign: (x_s >> k) > (t >> k) iff x_s > t with its k low bits (``dropped`` = 2^k - 1) set, and >=
    likewise.
    """
    if ties_open:
        for i in range(RUN):
            gate[i] = OPEN if (_server_share(np.uint32(x[i]), t[i], prime) | dropped[i]) >= t[i] else CLOSED
    else:
        for i in range(RUN):
            gate[i] = OPEN if _server_share(np.uint32(x[i]), t[i], prime) > (t[i] | dropped[i]) else CLOSED


@machine_code
def flipped(x: Any, words: Any, threshold: Any, direction: int, gate: Any) -> None:
    """[x > 0], flipped where the word is below the threshold and the direction is meant."""
    positives, negatives = direction != PASSED, direction != ZEROED
    for i in range(RUN):
        meant = (positives & (x[i] > 0)) | (negatives & (x[i] < 0))
        opened = (x[i] > 0) ^ (meant & (np.int64(words[i]) < threshold))
        gate[i] = OPEN if opened else CLOSED


@machine_code
def windowed(x: Any, low_words: Any, high_words: Any, low: int, high: int, gate: Any) -> None:
    """HummingBird's sign: top bit of the sum of the shares' bits [low, high)."""
    shift, top = np.uint64(low), np.uint64(high - low - 1)
    window = (np.uint64(2) << top) - np.uint64(1)
    for i in range(RUN):
        r = np.uint64(low_words[i]) | (np.uint64(high_words[i]) << np.uint64(32))
        server = ((np.uint64(np.int64(x[i])) + r) >> shift) & window
        client = ((np.uint64(0) - r) >> shift) & window
        gate[i] = CLOSED if ((server + client) >> top) & np.uint64(1) else OPEN


@machine_code
def count_faults(task: Any, x: Any, t: Any, gate: Any, counts: Any) -> None:
    """Add the faults of a run to ``counts``, as :func:`circa_train.fault.law.observed_faults` tells them
    apart.
    """
    wrap_zeroed, wrap_passed, zeroed, passed = np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0)
    if task.test == WINDOW:
        top = task.high - 1
        for i in range(RUN):
            negative = (np.int64(x[i]) >> top) & 1 != 0
            lost, kept = (x[i] > 0) & (gate[i] == CLOSED), (x[i] < 0) & (gate[i] != CLOSED)
            zeroed, passed = np.uint32(zeroed + lost), np.uint32(passed + kept)
            wrap_zeroed, wrap_passed = (
                np.uint32(wrap_zeroed + (lost & negative)),
                np.uint32(wrap_passed + (kept > negative)),
            )
    else:
        # x + t left [0, p) on either side iff it is at least p as an unsigned number; flips have no such kind
        prime = np.uint32(task.prime if task.test != UNIFORM else 0xFFFFFFFF)
        for i in range(RUN):
            wrapped = np.uint32(np.uint32(x[i]) + t[i]) >= prime
            lost, kept = (x[i] > 0) & (gate[i] == CLOSED), (x[i] < 0) & (gate[i] != CLOSED)
            zeroed, passed = np.uint32(zeroed + lost), np.uint32(passed + kept)
            wrap_zeroed, wrap_passed = (
                np.uint32(wrap_zeroed + (lost & wrapped)),
                np.uint32(wrap_passed + (kept & wrapped)),
            )
    if task.test == UNIFORM:
        counts[5] += zeroed
        counts[6] += passed
    else:
        counts[1] += wrap_zeroed
        counts[2] += wrap_passed
        counts[3] += zeroed - wrap_zeroed
        counts[4] += passed - wrap_passed


@machine_code
def write(z: Any, gate: Any, sign: Any, y: Any) -> None:
    """y = z where the gate is open (never as +0.0), else +0.0; all of them bit patterns."""
    zero = sign ^ sign
    for i in range(RUN):
        bits = sign if z[i] | sign == sign else z[i]
        y[i] = bits if gate[i] != CLOSED else zero
