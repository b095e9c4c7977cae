"""Philox4x32-10, the one counter-based generator of this package, in plain tensor formulas.

It is a bijection of 128-bit counters under a key (Salmon, Moraes, Dror, Shaw, SC 2011): four random 32-bit
words are a pure function of four counter words and two key words. The generator has no state, and the order
of questions does not matter: any thread, rank or device gets the same bits for the same counter and key.

The key is always the 64-bit seed. Each use has counters of its own, so no two uses share one::

    top bit of c3 = 0   the masks of sign tests (:mod:`circa_train.fault.masks`): c2 and c3 are the draw,
                        a number below 2^63
    top bit of c3 = 1   augmentation (:mod:`circa_train.data.augmentation`): c0 and c1 are the image, c2 is
                        the epoch

The draws of masks are divided once more. So training, its validation, and later measurements never have the
same masks at a site::

    0 to 2^31 - 1       training: the number of the optimiser step
    2^31 to 2^32 - 1    validation between epochs
    from 2^32           evaluation, and everything that looks at the draws of an evaluation
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

MASK32 = 0xFFFFFFFF
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
PHILOX_ROUNDS = 10


def philox(counter: Sequence[Tensor], key: tuple[int, int], rounds: int = PHILOX_ROUNDS) -> list[Tensor]:
    """Four int64 tensors of random 32-bit words, from four of counter words; ``key`` is two 32-bit ints."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        # An int64 product wraps modulo 2^64: its 64 bits are those of the unsigned product.
        low_product, high_product = c0 * PHILOX_MULTIPLIERS[0], c2 * PHILOX_MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((high_product >> 32) & MASK32) ^ c1 ^ k0,
            high_product & MASK32,
            ((low_product >> 32) & MASK32) ^ c3 ^ k1,
            low_product & MASK32,
        )
        k0, k1 = (k0 + PHILOX_WEYL[0]) & MASK32, (k1 + PHILOX_WEYL[1]) & MASK32
    return [c0, c1, c2, c3]
