"""The key schedule of AES-128 (FIPS-197, section 5.2), for kernels that do the rounds themselves."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 16
BLOCK_BYTES = 16
ROUNDS = 10

#: Blocks: each is two little-endian 64-bit words, the low one first. The *colour* of a label is bit 0 of its
#: low word.
Blocks = NDArray[np.uint64]


def expand_key(key: bytes) -> NDArray[np.uint8]:
    """The 11 round keys of an AES-128 key, uint8 (11, 16)."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"an AES-128 key has {KEY_BYTES} bytes, got {len(key)}")
    sbox = _sbox()
    words = [list(key[i : i + 4]) for i in range(0, KEY_BYTES, 4)]
    constant = 1
    while len(words) < 4 * (ROUNDS + 1):
        word = words[-1]
        if len(words) % 4 == 0:
            word = [sbox[byte] for byte in word[1:] + word[:1]]
            word[0] ^= constant
            constant = _double(constant)
        words.append([a ^ b for a, b in zip(word, words[-4], strict=True)])
    return np.array(words, dtype=np.uint8).reshape(ROUNDS + 1, BLOCK_BYTES)


def _double(x: int) -> int:
    """x times X in GF(2^8) modulo X^8 + X^4 + X^3 + X + 1."""
    return (x << 1) ^ (0x11B if x & 0x80 else 0)


@cache
def _sbox() -> tuple[int, ...]:
    """Inversion in GF(2^8), then an affine map. Inverses are found by the powers of the generator X + 1."""
    powers = [1]
    while len(powers) < 255:
        powers.append(_double(powers[-1]) ^ powers[-1])
    logarithm = {x: e for e, x in enumerate(powers)}
    box = []
    for x in range(256):
        inverse = powers[-logarithm[x] % 255] if x else 0
        spread = inverse
        for shift in range(1, 5):
            spread ^= inverse << shift
        box.append((spread & 0xFF) ^ (spread >> 8) ^ 0x63)
    return tuple(box)
