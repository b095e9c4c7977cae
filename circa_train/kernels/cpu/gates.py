"""The arithmetic of one run of 256 elements in machine code: values, gates, results, and what is counted.

Every function is a loop over 256 numbers in the first-level cache, simple enough to become vector
instructions. One value in millions does not fit into the field. These loops only notice that there is one;
slower code then looks for it and does what the policy says (:func:`repair`).

Circa's sign without statistics is one loop from activation to result (:func:`poszero`, :func:`negpass`).
Everything else computes arrays first, of x and of the gates.
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

    scale: Any  # 2^frac_bits, of the arithmetic's type; 1 where the values that come are scaled already
    prime: Any  # uint32
    sign: Any  # the sign bit of an element, as an unsigned number of its width
    magnitude: Any  # all bits but the sign, as an unsigned number of the width of the arithmetic's type
    reach: Any  # the bits of the largest magnitude that fits into the field


@machine_code
def widen(z: Any, brain_float: bool, bits: Any, values: Any) -> None:
    """Write numbers of bfloat16 or float16, given by their bit patterns, as float32 to ``values``; ``bits``
    is the same memory as bit patterns.

    The processor may be set to treat subnormal numbers as 0. No such number takes part in arithmetic here, so
    the result is the same.
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
    """Write y of Circa's sign test with ties closed. Returns whether all values fit; y is right only if so.

    Let w = (x mod p) + t. Then w is x_s or x_s + p. If x > 0 wraps, or x < 0 does not, then w >= p and
    x_s < t, so the gate is closed. In all other cases w = x_s. So the gate is open iff w < p and
    (w >> k) > (t >> k), and w need not be reduced modulo p. The second condition is computed without a shift:
    with ``dropped`` = 2^k - 1 it is w > (t | dropped). At x = 0 the gate is closed, so an open gate never
    writes a zero.
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
    """The same with ties open. Here the gate may be open where w >= p, too, because x_s may tie with t. So w
    is reduced modulo p. An open gate writes a zero as -0.0.
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
    """(x + t) mod p of uint32 numbers. A number below 0 is a huge one as uint32. So of v and v + p, and of v
    and v - p, the smaller one is the reduced one.
    """
    v = np.uint32(min(x, np.uint32(x + prime)) + t)
    return min(v, np.uint32(v - prime))


@machine_code
def quantise(values: Any, bits: Any, numbers: Any, x: Any) -> bool:
    """Write x = round_half_even(value * scale) as int32. Returns whether all values fit; x is right where
    they do.

    The scale is a power of two, so a product is exact or far out of range. Bit patterns without their sign
    have the order of the magnitudes, and those of infinities and NaN are above all numbers. So one comparison
    with ``reach``, the largest that fits, is enough.
    """
    beyond, scale = False, numbers.scale
    magnitude, reach = numbers.magnitude, numbers.reach
    for i in range(RUN):
        beyond |= (bits[i] & magnitude) > reach
        x[i] = np.int32(rint(values[i] * scale))
    return not beyond


@machine_code
def rescaled(values: Any, scales: Any, scaled: Any) -> None:
    """Write the values of a run, each times the scale of its own channel."""
    for i in range(RUN):
        scaled[i] = values[i] * scales[i]


@machine_code
def repair(task: Any, values: Any, scales: Any, x: Any, counts: Any) -> None:
    """For each value of a run that does not fit: count it, and write to x what the policy says, or 0 where
    it says nothing. Computed in float64.
    """
    limit, prime = float(task.limit), float(task.prime)
    for i in range(RUN):
        scale = np.float64(scales[i])
        scaled = rint(np.float64(values[i]) * scale)
        if not abs(scaled) <= limit:
            counts[0] += 1
            x[i] = 0
            if not math.isfinite(values[i]):
                counts[7] += 1
            elif task.policy == SATURATE:
                x[i] = np.int32(limit if scaled > 0 else -limit)
            elif task.policy == WRAP:
                # the product of a finite value overflowed: if the value is reduced first, it does not
                if math.isinf(scaled):
                    scaled = np.fmod(np.float64(values[i]), prime) * scale
                residue = np.int64(np.fmod(scaled, prime))
                residue += task.prime if residue < -task.limit else 0
                x[i] = np.int32(residue - task.prime if residue > task.limit else residue)


@machine_code
def truncated(x: Any, t: Any, dropped: Any, ties_open: bool, prime: Any, gate: Any) -> None:
    """Write the gates of Circa's sign: (x_s >> k) > (t >> k), or >= if ``ties_open``. Computed without a
    shift: the first is x_s > (t | dropped), the second (x_s | dropped) >= t, with ``dropped`` = 2^k - 1.
    """
    if ties_open:
        for i in range(RUN):
            gate[i] = OPEN if (_server_share(np.uint32(x[i]), t[i], prime) | dropped[i]) >= t[i] else CLOSED
    else:
        for i in range(RUN):
            gate[i] = OPEN if _server_share(np.uint32(x[i]), t[i], prime) > (t[i] | dropped[i]) else CLOSED


@machine_code
def flipped(x: Any, words: Any, threshold: Any, direction: int, gate: Any) -> None:
    """Write the gates [x > 0], flipped where the word is below the threshold and the direction allows it."""
    positives, negatives = direction != PASSED, direction != ZEROED
    for i in range(RUN):
        meant = (positives & (x[i] > 0)) | (negatives & (x[i] < 0))
        opened = (x[i] > 0) ^ (meant & (np.int64(words[i]) < threshold))
        gate[i] = OPEN if opened else CLOSED


@machine_code
def windowed(x: Any, low_words: Any, high_words: Any, low: int, high: int, gate: Any) -> None:
    """Write the gates of HummingBird's sign: the top bit of the sum of the shares' bits [low, high) is 0."""
    shift, top = np.uint64(low), np.uint64(high - low - 1)
    window = (np.uint64(2) << top) - np.uint64(1)
    for i in range(RUN):
        r = np.uint64(low_words[i]) | (np.uint64(high_words[i]) << np.uint64(32))
        server = ((np.uint64(np.int64(x[i])) + r) >> shift) & window
        client = ((np.uint64(0) - r) >> shift) & window
        gate[i] = CLOSED if ((server + client) >> top) & np.uint64(1) else OPEN


@machine_code
def count_faults(task: Any, x: Any, t: Any, gate: Any, counts: Any) -> None:
    """Add the faults of a run to ``counts``, by the kinds of
    :func:`circa_train.fault.law.observed_faults`.
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
        # x + t is outside of [0, p), on either side, iff it is at least p as an unsigned number; a flip is
        # never counted as a wrap
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
    """Write y = z where the gate is open, else +0.0; an open gate writes a zero as -0.0. z and y are bit
    patterns.
    """
    zero = sign ^ sign
    for i in range(RUN):
        bits = sign if z[i] | sign == sign else z[i]
        y[i] = bits if gate[i] != CLOSED else zero
