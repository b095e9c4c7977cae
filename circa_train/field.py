"""Z_p for an odd prime p below 2^31: canonical and centred values, and additive shares.

A field element has two faces. Its *canonical* value lies in [0, p): what is stored, masked and sent. Its
*centred* value lies in [-(p-1)/2, (p-1)/2]: the signed integer that a network computes with. Values that are
neither are reduced on conversion.

Sharing follows Circa (arXiv 2106.08475, section 3): for a mask t uniform on [0, p) the server holds
``(x + t) mod p`` and the client holds ``(p - t) mod p``; their sum is x.

Every function here is arithmetic by operators alone, so it works alike on Python integers, numpy int64 arrays
and torch int64 tensors, of any shape. No product of two field elements is formed, so int64 never overflows.
"""

from __future__ import annotations

from typing import Any

#: 31 bits, 130543 * 2^14 + 1: as large as the 31-bit arithmetic allows while leaving 2^14-th roots of unity,
#: so that homomorphic encryption with batching at ring degree 8192 can use the same field.
DEFAULT_PRIME = 2138816513

#: Miller-Rabin with these bases decides primality without error for every integer below 3,215,031,751.
_WITNESSES = (2, 3, 5, 7)


def as_int(name: str, value: Any, article: str = "an int") -> int:
    """``value`` as Python's int: also one of numpy's, as a loop over an array gives them.

    Raises:
        TypeError: if it is a bool, or no integer.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be {article}, got {value!r} ({type(value).__name__})")
    try:
        return int(value.__index__())
    except TypeError as error:  # an array of several
        raise TypeError(f"{name} must be {article}, got {value!r} ({type(value).__name__})") from error


def check_prime(prime: int) -> int:
    """Return ``prime`` if it is an odd prime below 2^31, the fields this package computes in.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is even, composite, smaller than 3, or not below 2^31.
    """
    prime = as_int("prime", prime)
    if not 3 <= prime < 2**31 or not _is_prime(prime):
        raise ValueError(
            f"prime = {prime} is not an odd prime below 2^31; "
            f"use the default {DEFAULT_PRIME}, or 251 for something small enough to enumerate"
        )
    return prime


def bit_length(prime: int) -> int:
    """Bits of a canonical value: a truncation k may be anything from 0 to this minus one."""
    return prime.bit_length()


def largest_centred(prime: int) -> int:
    """(p - 1) / 2, the largest magnitude a centred value can have."""
    return (prime - 1) // 2


def to_canonical(x: Any, prime: int) -> Any:
    """The representative in [0, p) of any integer(s) ``x``. Inverse of :func:`to_centred`."""
    return x % prime


def to_centred(value: Any, prime: int) -> Any:
    """The representative in [-(p-1)/2, (p-1)/2] of any integer(s) ``value``. Inverse of
    :func:`to_canonical`.
    """
    canonical = value % prime
    return canonical - prime * (canonical > largest_centred(prime))


def share(x: Any, mask: Any, prime: int) -> tuple[Any, Any]:
    """Split ``x`` with ``mask`` into (server, client) shares ((x + t) mod p, (p - t) mod p), both canonical.

    ``mask`` must lie in [0, p); for the shares to hide x it must be uniform there. Inverse of
    :func:`reconstruct`.
    """
    return (x + mask) % prime, (prime - mask) % prime


def reconstruct(server: Any, client: Any, prime: int) -> Any:
    """The centred value that two additive shares stand for. Inverse of :func:`share`."""
    return to_centred(server + client, prime)


def _is_prime(n: int) -> bool:
    """Deterministic Miller-Rabin, exact for n < 3,215,031,751."""
    if n < 2:
        return False
    for q in _WITNESSES:
        if n % q == 0:
            return n == q
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd //= 2
        twos += 1
    for base in _WITNESSES:
        power = pow(base, odd, n)
        if power in (1, n - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % n
            if power == n - 1:
                break
        else:
            return False
    return True
