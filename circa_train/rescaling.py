"""Dropping fraction bits of a shared value: three ways, and the exact law of each.

Under a mask r, uniform on [0, p), the server holds (x + r) mod p and the client p - r. With B = 2^bits:

``floor``
    floor(x / B). Exact, and not something that two parties can do cheaply.

``local`` (Mohassel and Zhang, IEEE S&P 2017, section 4.1)
    The server shifts its share, the client the negation of its own; no message:
    ((x + r) mod p >> bits) - (r >> bits). Where x + r left [0, p), which |x| of the p masks do, the value
    is off by p / B, about as far as the field reaches at the new scale. At 31 bits that ruins a network.

``offset``
    Both shift an offset value, which cannot wrap unseen. With o = floor(p / 4) the server computes
    u = (x + o + r) mod p. While |x| < p / 4, x + o lies in [0, p / 2), and so x + o + r passed p exactly if

        a = [r > p / 2]    and    c = [u < p / 2].

    The client knows a before the computation starts, the server learns c in it; one correlated oblivious
    transfer gives them shares of a times the server's correction d:

        server    (u >> bits) - (o >> bits)       d = ((u + p) >> bits) - (u >> bits) if c, else 0
        client    -((r + o mod B) >> bits)        a
        value     server + client + a d

    The low bits of o go to the client, so that nothing of o is left over. What comes out is

        floor((x + r') / B) - floor(r' / B)    with r' = r + o mod B,

    which is floor(x / B), or one more if the low bits of x and r' carry: x / B rounded up or down, never a
    unit away from it, and exact where B divides x. Rounding up is as likely as the low bits of x are large,
    so the mean is x / B but for 1 / p or so. Outside |x| < p / 4 the wrap is misjudged for some masks, and
    the value is off by p / B: that is an overflow, to be counted and never silent.

(With o rounded down to a multiple of B, as one may read elsewhere, the x between -p / 4 and -o fall out of
the domain: x + o is negative there.)

Everything is arithmetic by operators alone, so it works alike on Python integers, numpy int64 arrays and
torch int64 tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from circa_train.field import as_int, largest_centred, to_canonical, to_centred

RESCALINGS = ("offset", "floor", "local")


@dataclass(frozen=True)
class RescaleLaw:
    """Of ``local``: how many of the p masks give sgn(x) (|x| >> bits) (``near``), one more in magnitude
    (``far``), or a wrapped share.
    """

    near: int
    far: int
    wrapped: int


@dataclass(frozen=True)
class OffsetLaw:
    """Of ``offset``: how many of the p masks give floor(x / 2^bits) (``down``), one more (``up``), or a wrap
    that is misjudged: never while |x| < p / 4.
    """

    down: int
    up: int
    wrapped: int


def check_rescaling(rescaling: str) -> str:
    """Return ``rescaling`` if it is one of ``offset``, ``floor``, ``local``; ValueError otherwise."""
    if rescaling not in RESCALINGS:
        raise ValueError(f"rescaling = {rescaling!r} is not one of {', '.join(RESCALINGS)}")
    return rescaling


def check_rescale_bits(bits: int, prime: int) -> int:
    """Return ``bits`` if they can be dropped from values of the field: 0 to the bit length of p less 3.

    Raises:
        TypeError: if they are not an integer.
        ValueError: if there are more, so that nothing would be left of |x| < p / 4.
    """
    bits = as_int("bits to drop", bits)
    most = max(prime.bit_length() - 3, 0)
    if not 0 <= bits <= most:
        raise ValueError(f"bits to drop = {bits} is outside [0, {most}], which p = {prime} leaves room for")
    return bits


def floor_rescale(x: Any, bits: int) -> Any:
    """floor(x / 2^bits)."""
    return x >> bits


def local_rescale(x: Any, mask: Any, bits: int, prime: int) -> Any:
    """What both parties hold after each has shifted its share of ``x``: centred.

    Args:
        x: centred values.
        mask: masks r in [0, p), shaped like ``x``.
        bits: fraction bits to drop.
        prime: the field.
    """
    server, client = to_canonical(x + mask, prime) >> bits, -(mask >> bits)
    return to_centred(server + client, prime)


def offset_rescale(x: Any, mask: Any, bits: int, prime: int) -> Any:
    """What both parties hold after the offset rescaling of ``x``: centred. Arguments as of ``local``.

    It is what the protocol computes for every x of the field; outside |x| < p / 4 (:func:`outside_domain`) it
    may be off by p / 2^bits.

    Example:
        ``offset_rescale(-21, 102, 3, 251) == -3`` and ``offset_rescale(-21, 103, 3, 251) == -2``: -2.625.
    """
    offset, low = prime // 4, prime // 4 % (1 << bits)
    u = to_canonical(x + offset + mask, prime)
    wrapped = (2 * mask > prime) & (2 * u < prime)
    server, client = ((u + prime * wrapped) >> bits) - (offset >> bits), -((mask + low) >> bits)
    return to_centred(server + client, prime)


def outside_domain(x: Any, prime: int) -> Any:
    """Whether ``x`` is outside |x| < p / 4, where the offset rescaling knows every wrap."""
    return (x > prime // 4) | (x < -(prime // 4))


def misjudged_masks(x: Any, prime: int) -> Any:
    """Of the p masks, how many make the offset rescaling of a centred ``x`` misjudge the wrap: 0 inside the
    domain, and two for every unit outside.

    Let h = (p - 1) / 2. Below, x + o = -n: the n masks r < n wrap downwards, and the n masks h < r <= h + n
    look wrapped. Above, x + o = h + n: the n masks with x + o + r >= p and r <= h, and the n - 1 largest.
    """
    below, above = -(prime // 4) - x, x + prime // 4 - largest_centred(prime)
    return (below > 0) * 2 * below + (above > 0) * (2 * above - 1)


def expected_wraps(x: Any, rescaling: str, prime: int) -> Any:
    """Of the p masks, how many ruin a centred ``x``: none (floor), |x| (local), :func:`misjudged_masks`."""
    check_rescaling(rescaling)
    if rescaling == "offset":
        return misjudged_masks(x, prime)
    return abs(x) if rescaling == "local" else 0 * x


def rescale_law(x: int, bits: int, prime: int) -> RescaleLaw:
    """The exact law of :func:`local_rescale` for one centred ``x``, in closed form.

    By symmetry consider |x| = m 2^bits + low. Of the n = p - |x| masks that do not wrap, those carry whose
    low bits are at least 2^bits - low.

    Example:
        ``rescale_law(5, 3, 251) == RescaleLaw(near=94, far=152, wrapped=5)``.
    """
    _check_centred(x, prime)
    n = prime - abs(x)
    far = _carries(abs(x), n, bits)
    return RescaleLaw(near=n - far, far=far, wrapped=abs(x))


def offset_law(x: int, bits: int, prime: int) -> OffsetLaw:
    """The exact law of :func:`offset_rescale` for one centred ``x``, in closed form.

    Masks carry whose r + o mod 2^bits has low bits of at least 2^bits - low, where low are those of x; the
    masks that :func:`misjudged_masks` counts are two intervals, and are taken out.

    Example:
        ``offset_law(-21, 3, 251) == OffsetLaw(down=156, up=95, wrapped=0)``.
    """
    _check_centred(x, prime)
    offset, h = prime // 4, largest_centred(prime)
    lost: tuple[range, ...] = ()
    if x + offset < 0:
        n = -offset - x
        lost = range(n), range(h + 1, h + 1 + n)
    elif x + offset > h:
        n = x + offset - h
        lost = range(h + 1 - n, h + 1), range(prime - n + 1, prime)
    shift = offset % (1 << bits)

    def carries(masks: range) -> int:
        return _carries(x, masks.stop + shift, bits) - _carries(x, masks.start + shift, bits)

    wrapped = sum(len(masks) for masks in lost)
    up = carries(range(prime)) - sum(carries(masks) for masks in lost)
    return OffsetLaw(down=prime - wrapped - up, up=up, wrapped=wrapped)


def _carries(x: int, stop: int, bits: int) -> int:
    """How many numbers of [0, stop) carry out of their lowest ``bits`` when x is added."""
    block = 1 << bits
    low = x % block
    return (stop >> bits) * low + max(stop % block - (block - low), 0)


def _check_centred(x: int, prime: int) -> None:
    if abs(x) > largest_centred(prime):
        raise ValueError(f"x = {x} is no centred value of p = {prime}")
