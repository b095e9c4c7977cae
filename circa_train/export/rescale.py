"""Dropping fraction bits: the exact floor, and the local truncation of both parties' shares with its true
error.

Under a mask r, uniform on [0, p), the server holds (x + r) mod p and the client p - r. Local truncation
(Mohassel and Zhang, IEEE S&P 2017, section 4.1) needs no message: the server shifts its share right by
``bits``, the client the negation of its own, and what they hold then is

    ((x + r) mod p >> bits) - (r >> bits).

With m = |x| >> bits, this is one of three things:

- sgn(x) m, or sgn(x) (m + 1) if the low bits of |x| and of the smaller of both shares carry;
- if x + r left [0, p), which |x| of the p masks do: off by p / 2^bits, about as far as the field reaches at
  the new scale.

The last is rare for small |x| / p and ruins the value where it happens, which is why headroom matters.
:func:`rescale_law` counts the masks of each.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from circa_train.field import largest_centred, to_canonical, to_centred

RESCALINGS = ("floor", "local")


@dataclass(frozen=True)
class RescaleLaw:
    """How many of the p masks give sgn(x) (|x| >> bits) (``near``), one more in magnitude (``far``), or a
    wrapped share.
    """

    near: int
    far: int
    wrapped: int


def check_rescaling(rescaling: str) -> str:
    """Return ``rescaling`` if it is ``floor`` or ``local``; ValueError otherwise."""
    if rescaling not in RESCALINGS:
        raise ValueError(f"rescaling = {rescaling!r} is not one of {', '.join(RESCALINGS)}")
    return rescaling


def floor_rescale(x: Tensor, bits: int) -> Tensor:
    """floor(x / 2^bits) of every element of the int64 tensor ``x``."""
    return x >> bits


def local_rescale(x: Tensor, mask: Tensor, bits: int, prime: int) -> Tensor:
    """What both parties hold after each has shifted its share of ``x``: centred int64.

    Args:
        x: int64, centred values.
        mask: int64, masks in [0, p), shaped like ``x``.
        bits: fraction bits to drop.
        prime: the field.
    """
    server, client = to_canonical(x + mask, prime) >> bits, -(mask >> bits)
    return to_centred(server + client, prime)


def rescale_law(x: int, bits: int, prime: int) -> RescaleLaw:
    """The exact law of :func:`local_rescale` for one centred ``x``, in closed form.

    By symmetry consider |x| = m 2^bits + low. Of the n = p - |x| masks that do not wrap, those carry whose
    low bits are at least 2^bits - low.

    Example:
        ``rescale_law(5, 3, 251) == RescaleLaw(near=94, far=152, wrapped=5)``.
    """
    if abs(x) > largest_centred(prime):
        raise ValueError(f"x = {x} is no centred value of p = {prime}")
    block, low = 1 << bits, abs(x) & ((1 << bits) - 1)
    n = prime - abs(x)
    far = (n >> bits) * low + max((n & (block - 1)) - (block - low), 0)
    return RescaleLaw(near=n - far, far=far, wrapped=abs(x))
