"""The masks of consecutive elements in compiled code of its own, for checks at full size.

The law is :mod:`circa_train.fault.masks`, word for word: Philox4x32-10 under the element's address, and
Lemire's rejection. That formula in tensors takes longer than garbling does, and the simulator's kernels have
the masks only inside their fused pass. So here they are drawn a third time, in the plainest loop that is
fast enough: it shares no code with the kernels that it helps to check.
"""

# Functions under @njit are typed by numba when they are compiled, not by annotations.
from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from circa_train.fault import SignTest
from circa_train.fault.masks import LANES, RUN, check_address, check_elements
from circa_train.philox import PHILOX_MULTIPLIERS, PHILOX_ROUNDS, PHILOX_WEYL


def consecutive_masks(
    spec: SignTest, first: int, count: int, *, seed: int, site: int, draw: int
) -> NDArray[np.int64]:
    """``spec.masks_at`` of the elements ``first`` to ``first + count - 1``: int64 (count,).

    A sign test that draws its masks by a rule of its own is asked for them.

    Raises:
        ValueError: for an address out of range.
    """
    own_rule = type(spec).masks_at is not SignTest.masks_at
    if own_rule or spec.mask_count != spec.prime:
        masks = spec.masks_at(torch.arange(first, first + count), seed=seed, site=site, draw=draw)
        assert masks is not None  # an exact test has no circuit, and is not verified
        return np.asarray(masks)
    check_address(seed, site, draw)
    check_elements(first, count)
    out = np.empty(count, dtype=np.int64)
    _compiled()(first, np.uint64(seed), site, draw, spec.prime, out)
    return out


@cache
def _compiled() -> Any:
    """The pass, compiled at its first use."""
    from numba import njit

    mask32, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    m0, m1 = (np.uint64(m) for m in PHILOX_MULTIPLIERS)
    w0, w1 = (np.uint64(w) for w in PHILOX_WEYL)

    @njit(nogil=True)
    def rounds(block, above, draw, seed):
        """The four words of a block."""
        x0, x1 = block & mask32, (block >> half) | above
        x2, x3 = draw & mask32, draw >> half
        a, b = seed & mask32, seed >> half
        for _ in range(PHILOX_ROUNDS):
            left, right = x0 * m0, x2 * m1
            x0, x1 = (right >> half) ^ x1 ^ a, right & mask32
            x2, x3 = (left >> half) ^ x3 ^ b, left & mask32
            a, b = (a + w0) & mask32, (b + w1) & mask32
        return x0, x1, x2, x3

    @njit(nogil=True)
    def again(element, attempt, site, draw, seed):
        """The word of one element at a later attempt."""
        block = np.uint64(((element >> 8) << 6) | (element & (LANES - 1)))
        words = rounds(block, np.uint64((attempt << 8) | (site << 16)), draw, seed)
        return words[(element >> 6) & 3]

    @njit(nogil=True)
    def draw_masks(first, seed, site, draw_number, prime, out):
        p, draw = np.uint64(prime), np.uint64(draw_number)
        threshold, above = np.uint64(4294967296 % prime), np.uint64(site << 16)
        words, at = np.empty(RUN, dtype=np.uint64), 0
        while at < len(out):
            element = first + at
            base = np.uint64((element >> 8) << 6)
            for lane in range(LANES):
                x0, x1, x2, x3 = rounds(base + np.uint64(lane), above, draw, seed)
                words[lane], words[LANES + lane] = x0, x1
                words[2 * LANES + lane], words[3 * LANES + lane] = x2, x3
            start = element % RUN
            count = min(RUN - start, len(out) - at)
            for i in range(count):
                product = words[start + i] * p
                attempt = 1
                while product & mask32 < threshold:
                    product = again(element + i, attempt, site, draw, seed) * p
                    attempt += 1
                out[at + i] = np.int64(product >> half)
            at += count

    return draw_masks
