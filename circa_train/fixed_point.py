"""Real numbers as centred integers of Z_p: x = round_half_even(z * 2^frac_bits).

The scale is a power of two and the arithmetic is float64, so the only rounding is the stated one, for every
float16, bfloat16, float32 and float64 input. A value beyond (p-1)/2 has no centred representative: that is an
*overflow*, and what becomes of it is the caller's explicit policy:

- ``raise``: :class:`FixedPointOverflow`, naming the range and the largest frac_bits that would have fitted;
- ``wrap``: reduce modulo p, which is what the protocol would compute;
- ``saturate``: clamp to +-(p-1)/2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from circa_train.field import as_int, largest_centred, to_centred

OVERFLOW_POLICIES = ("raise", "wrap", "saturate")

#: 2^62 keeps every scaled value of ordinary magnitude, and every power 2^frac_bits, inside float64 and int64.
MAX_FRAC_BITS = 62


class FixedPointOverflow(ValueError):
    """A value does not fit into the field at the chosen number of fraction bits."""


def check_frac_bits(frac_bits: int) -> int:
    """Return ``frac_bits`` if it is an integer in [0, 62]; TypeError or ValueError otherwise."""
    frac_bits = as_int("frac_bits", frac_bits)
    if not 0 <= frac_bits <= MAX_FRAC_BITS:
        raise ValueError(
            f"frac_bits = {frac_bits} is outside [0, {MAX_FRAC_BITS}]; 12 to 20 is usual for a 31-bit prime"
        )
    return frac_bits


def check_overflow_policy(policy: str) -> str:
    """Return ``policy`` if it is one of raise, wrap, saturate; ValueError otherwise."""
    if policy not in OVERFLOW_POLICIES:
        raise ValueError(f"overflow = {policy!r} is not one of {', '.join(OVERFLOW_POLICIES)}")
    return policy


def to_fixed(z: Tensor, frac_bits: int, prime: int, overflow: str = "raise") -> tuple[Tensor, int]:
    """Quantise real values to centred field elements. Inverse, up to rounding, of :func:`from_fixed`.

    Args:
        z: floating point tensor of any shape.
        frac_bits: fraction bits of the result.
        prime: the field.
        overflow: what to do with values beyond (p-1)/2, see the module's page.

    Returns:
        (x, count): the int64 tensor of centred values, shaped like ``z``, and how many values overflowed.

    Raises:
        ValueError: if ``z`` holds NaN or an infinity, which no policy can represent.
        FixedPointOverflow: under the ``raise`` policy, if a value does not fit.
    """
    limit = largest_centred(prime)
    scaled = torch.round(z.double() * 2.0**frac_bits)
    outside = ~(scaled.abs() <= limit)  # so written, NaN counts as outside
    count = int(outside.sum())
    if count:
        check_finite(z)
        if overflow == "raise":
            raise overflow_error(float(z.double().abs().max()), frac_bits, prime, count, z.numel())
        if overflow == "saturate":
            scaled = scaled.clamp(-limit, limit)
        # fmod is exact, and brings values beyond int64 into range; those whose scaling leaves float64, before
        # it
        else:
            reduced = torch.fmod(z.double(), float(prime)) * 2.0**frac_bits
            scaled = torch.fmod(torch.where(scaled.isinf(), reduced, scaled), float(prime))
    x = scaled.to(torch.int64)
    return (to_centred(x, prime) if count and overflow == "wrap" else x), count


def from_fixed(x: Tensor, frac_bits: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The real values x / 2^frac_bits that centred integers stand for. Inverse of :func:`to_fixed`."""
    return (x.double() * 2.0**-frac_bits).to(dtype)


def check_finite(z: Tensor) -> None:
    """ValueError if ``z`` holds NaN or an infinity."""
    finite = torch.isfinite(z)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise ValueError(
            f"{bad} of {z.numel()} activations are NaN or infinite; they have no fixed-point value. "
            "Look for a diverged training run (lower the learning rate, clip gradients) or a bad input"
        )


def largest_frac_bits(magnitude: float, prime: int) -> int:
    """The largest frac_bits, at most 62, at which every real value up to ``magnitude`` fits into the field.

    Raises:
        FixedPointOverflow: if not even frac_bits = 0 fits.
    """
    limit = largest_centred(prime)
    if not math.isfinite(magnitude) or round(magnitude) > limit:
        raise FixedPointOverflow(
            f"magnitude {magnitude:g} exceeds (p-1)/2 = {limit} of p = {prime} even at frac_bits = 0"
        )
    frac_bits = MAX_FRAC_BITS
    # Python's round is half-even and exact, as to_fixed is
    while round(math.ldexp(magnitude, frac_bits)) > limit:
        frac_bits -= 1
    return frac_bits


def overflow_error(
    magnitude: float, frac_bits: int, prime: int, count: int, total: int
) -> FixedPointOverflow:
    """The error that says how far the values reached and which frac_bits would have held them."""
    limit = largest_centred(prime)
    try:
        remedy = f"the largest frac_bits that fits is {largest_frac_bits(magnitude, prime)}"
    except FixedPointOverflow:
        remedy = "no frac_bits fits; scale the network down or use a larger prime"
    return FixedPointOverflow(
        f"{count} of {total} activations overflow the field: |z| reaches {magnitude:.6g}, but frac_bits = "
        f"{frac_bits} "
        f"holds |z| <= {limit / 2.0**frac_bits:.6g} for p = {prime}; {remedy} "
        "(fit_frac_bits finds it; overflow='wrap' or 'saturate' accept it knowingly)"
    )
