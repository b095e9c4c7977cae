"""Pairs of a value and a mask at which one sign test or rescaling differs from every other.

A sign test compares x_s = (x + t) mod p with t, k bits dropped. For every bit j there is a pair that agrees
above bit j and differs in it: it ties for k > j and is decided for k <= j. So no two k answer all pairs
alike, and at a tie neither do the two modes; x = 0 ties at every k. The wraps are there in both directions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from circa_train.fault import BitWindow, TruncatedSign, truncated_sign
from circa_train.field import DEFAULT_PRIME, largest_centred, to_centred
from circa_train.rescaling import local_rescale, offset_rescale


def sign_pairs(spec: TruncatedSign) -> dict[str, Tensor]:
    """``x`` (centred), ``mask`` (t) and ``gate`` (s) of a sign test, int64 (pairs,); with one k per channel,
    the same pairs at every channel: (pairs, channels).
    """
    p = spec.prime
    limit = largest_centred(p)
    shares = []  # (x_s, t)
    for j in range(p.bit_length()):
        base = p // 3 >> (j + 1) << (j + 1)
        upper = base + (1 << j)
        shares += [(upper, base), (base, upper)] if upper < p else []
    wraps = [(1, p - 1), (limit, p - 1), (limit, limit + 1), (-1, 0), (-limit, 0), (-limit, limit - 1)]
    shares += [((x + t) % p, t) for x, t in [*wraps, (0, 0), (0, p - 1), (limit, 0), (-limit, p - 1)]]
    x_s, t = torch.tensor(shares).T
    x = to_centred(x_s - t, p)
    if isinstance(spec.k, tuple):
        x, t = (tensor[:, None].repeat(1, len(spec.k)) for tensor in (x, t))
    return {"x": x, "mask": t, "gate": truncated_sign(x, t, spec).long()}


def window_pairs(spec: BitWindow) -> dict[str, Tensor]:
    """``x``, ``mask`` (r, signed 64-bit patterns) and ``gate`` of a bit window, int64 (pairs,): for every bit
    values of either sign just below, at and above it, under masks that lose a carry there and that do not. A
    window one bit wider or narrower at either end answers one of them otherwise, if 31-bit values can tell.
    """
    steps = {sign * ((1 << j) + d) for j in range(31) for d in (-1, 0, 1) for sign in (1, -1)}
    values = sorted(x for x in steps if abs(x) <= largest_centred(DEFAULT_PRIME))
    bits = [1 << j for j in range(32)]
    masks = sorted({0, -1, 2**63 - 1, -(2**63), *bits, *(bit - 1 for bit in bits)})
    x, r = torch.cartesian_prod(torch.tensor(values), torch.tensor(masks)).T.contiguous()
    return {"x": x, "mask": r, "gate": spec.gate(x, r).long()}


def rescale_pairs(bits: int, prime: int) -> dict[str, Tensor]:
    """``x`` (centred), ``mask`` (r) and what ``local`` and ``offset`` make of them, int64 (pairs,): carries,
    wraps, the borders of the offset rescaling's domain and what lies just outside.
    """
    limit, quarter, block = largest_centred(prime), prime // 4, 1 << bits
    near = (0, 1, block - 1, block, block + 1, quarter - 1, quarter, quarter + 1, quarter + 2, limit)
    values = sorted({sign * x for x in near for sign in (1, -1) if x <= limit})
    border = (0, 1, block - 1, block, limit - 1, limit, limit + 1, prime - block, prime - 2, prime - 1)
    masks = sorted({r % prime for r in border})
    x, r = torch.cartesian_prod(torch.tensor(values), torch.tensor(masks)).T.contiguous()
    local, offset = (rule(x, r, bits, prime) for rule in (local_rescale, offset_rescale))
    return {"x": x, "mask": r, "local": local, "offset": offset}
