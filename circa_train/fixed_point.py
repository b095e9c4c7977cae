"""Real numbers as centred integers of Z_p: x = round_half_even(z * 2^frac_bits).

The scale is a power of two and the arithmetic is float64, so the only rounding is the stated one, for every
float16, bfloat16, float32 and float64 input. Channels (entries of dimension 1) may differ in their fraction
bits: relu(c z) = c relu(z), so each may use the field as its own values need it. A value beyond (p-1)/2 has
no centred representative: that is an *overflow*, and what becomes of it is the caller's explicit policy:

- ``raise``: :class:`FixedPointOverflow`, naming the range and the largest frac_bits that would have fitted;
- ``wrap``: reduce modulo p, which is what the protocol would compute;
- ``saturate``: clamp to +-(p-1)/2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from circa_train.field import as_int, largest_centred, to_centred

OVERFLOW_POLICIES = ("raise", "wrap", "saturate")

#: 2^62 keeps every scaled value of ordinary magnitude, and every power 2^frac_bits, inside float64 and int64.
MAX_FRAC_BITS = 62

#: Fraction bits of a site: of all channels, or one number per channel.
FracBits = int | tuple[int, ...]


class FixedPointOverflow(ValueError):
    """A value does not fit into the field at the chosen number of fraction bits."""


def check_site_frac_bits(frac_bits: int | Sequence[int]) -> FracBits:
    """Return ``frac_bits`` of a site if it is an integer in [0, 62], or a list of them (one per channel) as a
    tuple; TypeError or ValueError otherwise.
    """
    if not isinstance(frac_bits, (list, tuple)):
        return check_frac_bits(frac_bits, "an int (or a list of ints, one per channel)")  # type: ignore[arg-type]
    if not frac_bits:
        raise ValueError("frac_bits = () names no channel; give one number per channel, or one int for all")
    return tuple(map(check_frac_bits, frac_bits))


def check_frac_bits(frac_bits: int, article: str = "an int") -> int:
    """Return ``frac_bits`` if it is an integer in [0, 62]; TypeError or ValueError otherwise."""
    number = as_int("frac_bits", frac_bits, article)
    if not 0 <= number <= MAX_FRAC_BITS:
        raise ValueError(
            f"frac_bits = {number} is outside [0, {MAX_FRAC_BITS}]; 12 to 20 is usual for a 31-bit prime"
        )
    return number


def frac_bits_text(frac_bits: int | Sequence[int] | Mapping[str, int | Sequence[int]]) -> str:
    """``20``, or ``17 to 22 by channel``; of one site, or of sites by name."""
    if isinstance(frac_bits, int):
        return str(frac_bits)
    parts = list(frac_bits.values()) if isinstance(frac_bits, Mapping) else [frac_bits]
    numbers = [number for part in parts for number in ([part] if isinstance(part, int) else part)]
    return f"{min(numbers)} to {max(numbers)} by channel"


def check_channels(frac_bits: FracBits, shape: Sequence[int]) -> None:
    """ValueError if fraction bits differ by channel, and an activation of ``shape`` has other channels."""
    if isinstance(frac_bits, tuple) and (len(shape) < 2 or shape[1] != len(frac_bits)):
        raise ValueError(
            f"frac_bits are given for {len(frac_bits)} channels, but the activation has shape "
            f"{tuple(shape)}; give one number per entry of dimension 1, or a single int"
        )


def scale_like(frac_bits: FracBits, z: Tensor, channels: Tensor | None = None) -> float | Tensor:
    """2^frac_bits in the form that multiplies ``z``: a float, or a float64 tensor (C, 1, ..., 1); with
    ``channels``, the channel of each element, one number per element.

    Raises:
        ValueError: if there are not as many channels as fraction bits.
    """
    if isinstance(frac_bits, int):
        return 2.0**frac_bits
    if channels is not None:
        return _scales(frac_bits, z.device)[channels]
    check_channels(frac_bits, z.shape)
    return _scales(frac_bits, z.device).reshape(-1, *[1] * (z.dim() - 2))


@lru_cache(maxsize=1024)
def _scales(frac_bits: tuple[int, ...], device: torch.device) -> Tensor:
    """Kept, because copying them to a GPU at every forward would make the host wait."""
    return torch.tensor([2.0**bits for bits in frac_bits], dtype=torch.float64, device=device)


def check_overflow_policy(policy: str) -> str:
    """Return ``policy`` if it is one of raise, wrap, saturate; ValueError otherwise."""
    if policy not in OVERFLOW_POLICIES:
        raise ValueError(f"overflow = {policy!r} is not one of {', '.join(OVERFLOW_POLICIES)}")
    return policy


def to_fixed(
    z: Tensor, frac_bits: FracBits, prime: int, overflow: str = "raise", channels: Tensor | None = None
) -> tuple[Tensor, int]:
    """Quantise real values to centred field elements. Inverse, up to rounding, of :func:`from_fixed`.

    Args:
        z: floating point tensor of any shape.
        frac_bits: fraction bits of the result: of all channels, or one number per channel.
        prime: the field.
        overflow: what to do with values beyond (p-1)/2, see the module's page.
        channels: int64, the channel of each element, where ``z`` holds elements of an activation in another
            shape.

    Returns:
        (x, count): the int64 tensor of centred values, shaped like ``z``, and how many values overflowed.

    Raises:
        ValueError: if ``z`` holds NaN or an infinity, which no policy can represent, or has not as many
            channels as ``frac_bits``.
        FixedPointOverflow: under the ``raise`` policy, if a value does not fit.
    """
    limit, scale = largest_centred(prime), scale_like(frac_bits, z, channels)
    scaled = torch.round(z.double() * scale)
    outside = ~(scaled.abs() <= limit)  # so written, NaN counts as outside
    count = int(outside.sum())
    if count:
        check_finite(z)
        if overflow == "raise":
            raise _overflow(z, frac_bits, prime, outside, channels)
        if overflow == "saturate":
            scaled = scaled.clamp(-limit, limit)
        # fmod is exact, and brings values beyond int64 into range; those whose scaling leaves float64, before
        # it
        else:
            reduced = torch.fmod(z.double(), float(prime)) * scale
            scaled = torch.fmod(torch.where(scaled.isinf(), reduced, scaled), float(prime))
    x = scaled.to(torch.int64)
    return (to_centred(x, prime) if count and overflow == "wrap" else x), count


def from_fixed(x: Tensor, frac_bits: FracBits, dtype: torch.dtype = torch.float32) -> Tensor:
    """The real values x / 2^frac_bits that centred integers stand for. Inverse of :func:`to_fixed`."""
    return (x.double() / scale_like(frac_bits, x)).to(dtype)


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


def range_text(frac_bits: FracBits, prime: int) -> str:
    """``frac_bits = 20 holds |z| <= ...``, for messages; where channels differ, of those that hold least."""
    most = frac_bits if isinstance(frac_bits, int) else max(frac_bits)
    where = "" if isinstance(frac_bits, int) else f" (channel {frac_bits.index(most)})"
    return f"frac_bits = {most}{where} holds |z| <= {largest_centred(prime) / 2.0**most:.6g} for p = {prime}"


def _overflow(
    z: Tensor, frac_bits: FracBits, prime: int, outside: Tensor, channels: Tensor | None
) -> FixedPointOverflow:
    """The error for the values of z that do not fit; where channels differ, for the lowest of them that has
    such values.
    """
    if isinstance(frac_bits, int):
        return overflow_error(float(z.double().abs().max()), frac_bits, prime, int(outside.sum()), z.numel())
    if channels is None:
        numbers = torch.arange(len(frac_bits), device=z.device)
        channels = numbers.reshape(-1, *[1] * (z.dim() - 2)).expand(z.shape)
    channel = int(channels[outside].min())
    here = channels == channel
    error = overflow_error(
        float(z[here].double().abs().max()), frac_bits[channel], prime, int(outside[here].sum()),
        int(here.sum()),
    )  # fmt: skip
    return FixedPointOverflow(f"channel {channel}: {error}")


def overflow_error(
    magnitude: float, frac_bits: int, prime: int, count: int, total: int
) -> FixedPointOverflow:
    """The error that says how far the values reached and which frac_bits would have held them."""
    try:
        remedy = f"the largest frac_bits that fits is {largest_frac_bits(magnitude, prime)}"
    except FixedPointOverflow:
        remedy = "no frac_bits fits; scale the network down or use a larger prime"
    return FixedPointOverflow(
        f"{count} of {total} activations overflow the field: |z| reaches {magnitude:.6g}, but "
        f"{range_text(frac_bits, prime)}; {remedy} "
        "(fit_frac_bits finds it; overflow='wrap' or 'saturate' accept it knowingly)"
    )
